"""Problems x engine x grader: the evaluation loop and what surrounds it."""
