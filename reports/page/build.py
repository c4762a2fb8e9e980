"""Write `report.html`: one file that refers to nothing outside it, or a folder with its chunks where it is large.

The policy in its head allows the scripts and the style with the digests named there, and nothing else. So a text of a
model can't run, load or send anything, even if the page had a fault that made markup of it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import harness
from harness.core.types import Estimate, Table
from harness.reports.compare import IGNORED, NOTED
from harness.reports.flags import FLAGS, right_answers
from harness.reports.page import pack
from harness.reports.page.pack import ChunkWriter, SampleChunks
from harness.reports.page.pairs import pair_rows
from harness.reports.page.problems import Statements
from harness.reports.page.samples import Known, TaskSamples, add_run, group_names
from harness.reports.page.tokens import MOST_TOKENS
from harness.reports.page.training import training_of
from harness.reports.protocol_card import card
from harness.reports.run_facts import labels, task_ids, unfinished
from harness.runs.folder import RunReader
from harness.runs.jsonl import disk_error, write_whole

FILE = "report.html"
CHUNK_FOLDER = "report-data"
FORMAT = 1
_OWN = Path(__file__).parent

Named = tuple[RunReader, str]


class Plot(Protocol):
    """A drawing as the text of an SVG file."""

    @property
    def id(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def svg(self) -> str: ...


@dataclass(frozen=True, slots=True)
class PageFiles:
    """The page, and the folder with its chunks if they are not inside it."""

    html: Path
    folder: Path | None


class Page:
    """The page of a report, read and built, and not yet written. Close it, as its samples are in a temporary file."""

    def __init__(
        self,
        runs: Sequence[RunReader],
        tables: Sequence[tuple[str, Table]],
        plots: Sequence[Plot] = (),
        warnings: Sequence[str] = (),
        first_chunk: int = 0,
    ) -> None:
        """Read the runs. Raise if one of their files can't be read. A page that is served counts its chunks on."""
        self._chunks = ChunkWriter(first_chunk)
        try:  # the main values come last, since they name the others
            self.main = self._chunks.add(_main(runs, tables, plots, warnings, self._chunks))
        except BaseException:
            self._chunks.close()
            raise

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        self._chunks.close()

    def chunk(self, number: int) -> bytes | None:
        """Return the text of a chunk, or None if this page has no such chunk."""
        return self._chunks.text(number)

    def served_html(self) -> str:
        """Return a page that asks the server it came from for its chunks and for newer states."""
        return _html(self.main, [], live=_read("live.js"))

    def write(self, out_folder: Path, most_in_one_file: int = pack.MOST_IN_ONE_FILE) -> PageFiles:
        """Write the page into the folder of a report. The same runs give the same bytes."""
        is_one_file = self._chunks.n_bytes <= most_in_one_file
        folder = out_folder / CHUNK_FOLDER
        if not is_one_file:
            _write_chunks(folder, self._chunks)
        write_whole(out_folder / FILE, _html(self.main, list(self._chunks.texts()) if is_one_file else None))
        _remove_chunks(folder, 0 if is_one_file else self.main + 1)
        return PageFiles(out_folder / FILE, None if is_one_file else folder)


def remove_page(out_folder: Path) -> None:
    """Remove the page of an earlier report, and its chunks."""
    (out_folder / FILE).unlink(missing_ok=True)
    _remove_chunks(out_folder / CHUNK_FOLDER, 0)


# --- the data ---------------------------------------------------------------------------------------------------


def _main(
    runs: Sequence[RunReader],
    tables: Sequence[tuple[str, Table]],
    plots: Sequence[Plot],
    warnings: Sequence[str],
    chunks: ChunkWriter,
) -> dict[str, Any]:
    """Return what the page shows at first; samples, plots and trainings are chunks."""
    named = list(zip(runs, labels(runs), strict=True))
    return {
        "format": FORMAT,
        "made": f"harness {harness.__version__}",
        "warnings": [*unfinished(named), *warnings],
        "runs": [_run(run, label) for run, label in named],
        "tables": [{"id": table_id, **_table(table)} for table_id, table in tables],
        "plots": [{"id": plot.id, "title": plot.title, "chunk": chunks.add(plot.svg)} for plot in plots],
        "cards": _cards(named),
        "flags": list(FLAGS),
        "tasks": _tasks(runs, chunks),
        "training": [
            {"run": number, "chunk": chunks.add(training_of(run, chunks, MOST_TOKENS // len(runs)))}
            for number, run in enumerate(runs)
            if run.record.kind == "train"
        ],
    }


def _run(run: RunReader, label: str) -> dict[str, Any]:
    record = run.record
    return {
        "label": label,
        "kind": record.kind,
        "status": run.status,
        "id": record.id,
        "created": record.created,
        "digest": record.config_digest,
        "code": record.code,
    }


def _table(table: Table) -> dict[str, Any]:
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    return {"title": table.title, "columns": table.columns, "rows": rows, "notes": table.notes}


def _cell(cell: Any) -> Any:
    return asdict(cell) if isinstance(cell, Estimate) else cell


def _cards(named: Sequence[Named]) -> dict[str, Any]:
    """Return the protocol card of each evaluation by task, and the settings that do not make a difference."""
    found: dict[str, list[dict[str, Any]]] = {}
    names: list[str] = []
    for number, (run, _) in enumerate(named):
        if run.record.kind == "eval":
            for task in task_ids(run):
                settings = card(run, task)
                names = list(settings)
                found.setdefault(task, []).append({"run": number, "values": list(settings.values())})
    return {"names": names, "tasks": found, "noted": NOTED, "ignored": IGNORED}


def _tasks(runs: Sequence[RunReader], chunks: ChunkWriter) -> list[dict[str, Any]]:
    evaluations = [(number, run) for number, run in enumerate(runs) if run.record.kind == "eval"]
    tasks: dict[str, TaskSamples] = {}
    statements: dict[str, Statements] = {}
    clusters: dict[str, dict[str, str]] = {}
    for _, run in evaluations:
        for task in task_ids(run):
            if task not in tasks:
                of_task = [other for _, other in evaluations if task in task_ids(other)]
                statements[task], tasks[task] = Statements(task, of_task), TaskSamples(task)
                for name in statements[task].texts:
                    tasks[task].problem(name)
        for task, families in run.clusters().items():
            clusters[task] = {**families, **clusters.get(task, {})}
    texts = {task: {name: text for name, (text, _) in of.texts.items()} for task, of in statements.items()}
    known = Known(right_answers([run for _, run in evaluations]), texts)
    for number, run in evaluations:
        add_run(run, number, tasks, chunks, known, MOST_TOKENS // len(runs))
    return [_task(task, statements[task.id], clusters.get(task.id, {}), chunks) for task in tasks.values() if task.runs]


def _task(task: TaskSamples, statements: Statements, clusters: dict[str, str], chunks: ChunkWriter) -> dict[str, Any]:
    names, texts = list(task.problems), SampleChunks(chunks)
    for row in statements.rows(names):
        texts.add(row)
    texts.close()
    index = {
        "problems": names,
        "groups": group_names(task),
        "runs": [columns.to_plain() for columns in task.runs],
        "pairs": pair_rows(task, clusters),
        "statements": {"starts": texts.starts, "chunks": texts.numbers},
    }
    return {
        "id": task.id,
        "runs": [columns.run for columns in task.runs],
        "problems": len(names),
        "samples": sum(len(columns.outcomes) for columns in task.runs),
        "solutions": task.names_solutions,
        "no_texts": statements.why_none,
        "chunk": chunks.add(index),
    }


# --- the files --------------------------------------------------------------------------------------------------

_PAGE = """\
<!DOCTYPE html>
<html lang="en" data-main="{main}"{folder}>
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>Report</title>
<style>{style}</style>
</head>
<body>
<div id="app"><p class="loading">Loading the report.</p></div>
<noscript><p>This page needs JavaScript; report.md next to it has the tables.</p></noscript>
{first}{live}<script>{script}</script>
{others}<script type="text/plain" id="end"></script>
</body>
</html>
"""


def _html(main: int, texts: Sequence[str] | None, live: str | None = None) -> str:
    """Return the page. Its own data come before the script and the samples after it, so that it shows at once."""
    style, script = _read("page.css"), _read("page.js")
    blocks = [] if texts is None else [_block(number, text) for number, text in enumerate(texts)]
    return _PAGE.format(
        main=main,
        folder=f' data-folder="{CHUNK_FOLDER}"' if texts is None else "",
        policy=policy(script, style, has_folder=texts is None, live=live),
        style=style,
        script=script,
        first=blocks[main] if blocks else "",
        live=f"<script>{live}</script>\n" if live is not None else "",
        others="".join(blocks[:main]),
    )


def _read(name: str) -> str:
    return (_OWN / name).read_text(encoding="utf-8")


def _block(number: int, text: str) -> str:
    return f'<script type="text/plain" id="c{number}">{text}</script>\n'


def policy(script: str, style: str, *, has_folder: bool, live: str | None = None) -> str:
    """Return the Content-Security-Policy. Chunks in a folder are scripts, which only the page's own script can add.

    A page that is served has the script `live` as well, and may connect to its server and nothing else.
    """
    scripts = f"script-src {_digest(script)}" + (" 'strict-dynamic'" if has_folder else "")
    scripts += f" {_digest(live)}; connect-src 'self'" if live is not None else ""
    types = "trusted-types chunks" if has_folder else "trusted-types 'none'"
    return (
        f"default-src 'none'; {scripts}; style-src {_digest(style)}; img-src data:; base-uri 'none'; "
        f"form-action 'none'; require-trusted-types-for 'script'; {types}"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _write_chunks(folder: Path, chunks: ChunkWriter) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from error
    for number, text in enumerate(chunks.texts()):
        write_whole(folder / f"{number}.js", f'harnessChunk({number},"{text}")\n')


def _remove_chunks(folder: Path, n_kept: int) -> None:
    """Remove chunks of an earlier page, and the folder if it is then empty."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for path in folder.glob("*.js"):
        if path.stem.isdigit() and int(path.stem) >= n_kept:
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
