"""Text generation, one backend a file."""
