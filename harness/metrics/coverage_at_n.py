"""Coverage@N: the number of different solutions among N right samples, as a curve over N and as the area under it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.metrics.base.diversity import OfSolutions, right_of, right_size
from harness.metrics.base.grouping import Means, ProblemSamples


class CoverageAtN(OfSolutions):
    """The expected number of classes among N right samples: the sum over classes of 1 - C(n - c, N) / C(n, N).

    n right samples of a problem are in classes of c. For N = 2, 4, 8 ... up to `correct`, each over the problems that
    have N right samples. Those are other problems for each N, so `coverage_area` takes one set: it is the mean height
    of the curve over log2 N from 1 to `correct`, over the problems with that many right samples.
    """

    name = "coverage"

    def of_counts(self, counts: Sequence[int], size: int) -> float:
        from harness.stats.diversity import coverage  # numpy

        return coverage(counts, size)

    def means(self, problems: Sequence[ProblemSamples]) -> Iterable[Means]:
        from harness.stats.diversity import area_under, class_counts  # numpy

        largest = right_size(self.config.correct, problems)
        if largest is None:
            return
        classes = {p.problem_id: right_of(p, found) for p in problems if (found := self.features(p)) is not None}
        sizes = [1 << power for power in range(largest.bit_length()) if 1 << power < largest] + [largest]
        for size in sizes[1:]:
            used = [p for p in problems if len(classes.get(p.problem_id, ())) >= size]
            values = [self.of_counts(class_counts(classes[p.problem_id]), size) for p in used]
            yield from self.estimated(f"coverage@{size}", problems, used, values, size)
        curves = [[self.of_counts(class_counts(classes[p.problem_id]), size) for size in sizes] for p in used]
        areas = [area_under(sizes, curve) for curve in curves]
        yield from self.estimated(f"coverage_area@{largest}", problems, used, areas, largest)

    def estimated(
        self,
        name: str,
        problems: Sequence[ProblemSamples],
        used: Sequence[ProblemSamples],
        values: Sequence[float],
        size: int,
    ) -> Iterable[Means]:
        """Yield the estimate, if any problem has enough right samples of known classes."""
        if used:
            n_left_out = len(problems) - len(used)
            notes = (f"{n_left_out} problems with fewer than {size} right samples left out",) if n_left_out else ()
            yield Means(self.prefix + name, used, values, float(size), notes)


METRIC = CoverageAtN
