"""What each verb of the command line does: call, then print. Results go to stdout, progress to stderr."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

DONE, FAILED, UNGRADED, INTERRUPTED = 0, 1, 3, 130


def train(options: argparse.Namespace) -> int:
    from harness.core import config as configs
    from harness.show import find_config
    from harness.trainers.settings import TrainConfig

    path = find_config(options.config)
    chosen = (_strictness(options), _engine(options), _rollouts(options), _overrides(options))
    settings = configs.merge(configs.read_toml(path), *chosen)
    config = configs.parse(TrainConfig, settings)
    folder = options.out if options.out is not None else _default_folder(f"train-{path.stem}", config)
    from harness.trainers.run import parts_of, train

    if options.dry_run:
        from harness.trainers.forecast import forecast

        told = forecast(config, parts_of(config, folder))
        return _print_config(config, folder, options, asdict(told), told.lines())
    view = train(config, folder, _progress(options))
    _print({"run": str(view.folder), "status": view.record.status, "last_step": view.steps()[-1]}, options, folder)
    return DONE


def evaluate(options: argparse.Namespace) -> int:
    from harness.cells import cells, evaluate_cells, sweep
    from harness.core import config as configs

    given = configs.read_toml(options.config) if options.config is not None else {}
    flags, last = configs.merge(_eval_flags(options), _strictness(options)), _overrides(options)
    several = [configs.merge(given, flags, one, last) for one in sweep(options.model, options.temperature)]
    every = cells(several, options.out, lambda config: _default_folder(f"eval-{Path(config.model.path).name}", config))
    if options.dry_run:
        return max(_print_config(cell.config, cell.folder, options) for cell in every)
    progress = _progress(options)
    for text in dict.fromkeys(text for cell in every for text in _told_of_preset(cell.config)):
        progress.say(text)
    views = list(evaluate_cells(every, progress))
    _print_tables([view.folder for view in views], ["results"], options)
    if len(every) > 1:
        _print_path("report", _report_of(every, options.out), options)
    return max([_ended(cell.config, view, options) for cell, view in zip(every, views, strict=True)])


def _told_of_preset(config: Any) -> Sequence[str]:
    if config.preset is None:
        return []
    return [f"preset {config.preset}; what differs:", *(f"  {text}" for text in config.deviations)]


def _report_of(every: Sequence[Any], out: Path | None) -> Path:
    """One report over all of them."""
    from harness.core.config import digest
    from harness.reports.build import write_report

    names = [cell.folder.name for cell in every]
    folder = out / "report" if out is not None else Path("runs") / f"report-{digest({'runs': names})[:8]}"
    return write_report([cell.folder for cell in every], folder, None).markdown


def _ended(config: Any, view: Any, options: argparse.Namespace) -> int:
    """Where the run is and what it lacks; the exit code of that."""
    from harness.shortfall import shortfall

    _print_path("run", view.folder, options)
    short = shortfall(config, view)
    if short.n_lost:
        print(
            f"harness: {short.n_lost} completions could not be had and are ungraded; "
            "the same command asks for them again",
            file=sys.stderr,
        )
    if not short.is_above(config.max_ungraded):
        return DONE
    reasons = view.folder / "verdicts.jsonl"
    print(
        f"harness: more than max_ungraded = {config.max_ungraded:g} of the completions could not be graded; "
        f"{reasons} says why",
        file=sys.stderr,
    )
    return UNGRADED


def grade(options: argparse.Namespace) -> int:
    from harness.core.config import parse_plugin
    from harness.regrade import regrade

    grader = (
        parse_plugin("graders", {"id": options.grader, **_overrides(options)}, "grader") if options.grader else None
    )
    found = regrade(options.run, grader, options.threads, _progress(options))
    lines = [
        f"{task}: {e.name} {e.value:.4f} [{e.low:.4f}, {e.high:.4f}]"
        for task in found.estimates
        for e in found.estimates[task]
    ]
    lines.append(f"{found.n_completions} completions graded, {found.n_ungraded} of them ungraded")
    _print(asdict(found), options, "\n".join(lines))
    return UNGRADED if found.too_many_ungraded else DONE


def audit(options: argparse.Namespace) -> int:
    from harness.audit import audit, shown
    from harness.core.store import RunView
    from harness.reports.render import to_terminal

    found = audit(RunView.read(options.run), options.show)
    tables = [table for table in (found.rates, found.agreement) if table.rows]
    _print(asdict(found), options, "\n\n".join([*map(to_terminal, tables), shown(found)]))
    return DONE


def compare(options: argparse.Namespace) -> int:
    from harness.core.errors import UsageError
    from harness.reports.compare import compare

    first, second = options.runs, options.against
    if second is None:
        if len(first) != 2:
            raise UsageError("name two runs, or several of one kind and those of the other after --against")
        first, second = first[:1], first[1:]
    table = compare(first, second, metric=options.metric, grader=options.grader, anyway=options.anyway)
    return _print_made([table], options)


def report(options: argparse.Namespace) -> int:
    from harness.reports.build import write_report

    files = write_report(options.runs, options.out, options.table if options.table else None)
    _print({"report": str(files.markdown), "tables": [str(path) for path in files.csv]}, options, files.markdown)
    return DONE


def export(options: argparse.Namespace) -> int:
    from harness.core.errors import UsageError

    wanted, other = ("run", "tasks") if options.form == "inspect-log" else ("tasks", "run")
    if getattr(options, wanted) is None or getattr(options, other) is not None:
        raise UsageError(f"harness export {options.form} takes --{wanted}, and no --{other}")
    if options.model is not None and options.form != "lm-eval":
        raise UsageError("--model is for lm-eval; the others ask with messages")
    drawn = {"--n": options.n, "--temperature": options.temperature, "--max-tokens": options.max_tokens}
    posed = {"--grader": options.grader, "--split": options.split, "--limit": options.limit, "--set": options.set}
    refused = {"trl": drawn, "verl": drawn, "inspect-log": {**drawn, **posed}}.get(options.form, {})
    if given := [flag for flag, value in refused.items() if value not in (None, [])]:
        why = "a log has what its run has" if options.form == "inspect-log" else "the trainer draws the replies"
        raise UsageError(f"harness export {options.form} takes no {given[0]}: {why}")
    made = _exported(options)
    _print({"folder": str(options.out), "made": made}, options, "\n".join([f"written to {options.out}:", *made]))
    return DONE


def _exported(options: argparse.Namespace) -> list[str]:
    from harness.bridges import inspect_export, inspect_log, lm_eval_export, trl_export, verl_export
    from harness.bridges.exported import ExportConfig, ProblemsConfig
    from harness.core import config as configs

    if options.form == "inspect-log":
        return [path.name for path in inspect_log.export(options.run, options.out)]
    given = configs.merge(_export_flags(options), _overrides(options))
    if options.form == "trl":
        return trl_export.export(configs.parse(ProblemsConfig, given), options.out)
    if options.form == "verl":
        return verl_export.export(configs.parse(ProblemsConfig, given), options.out)
    config = configs.parse(ExportConfig, given)
    if options.form == "inspect":
        return inspect_export.export(config, options.out)
    return lm_eval_export.export(config, options.out, options.model)


def demo(options: argparse.Namespace) -> int:
    from harness.reports.build import write_report
    from harness.study import demo

    folders = demo(options.out, options.steps, options.seed, _progress(options))
    files = write_report([*folders, *sorted(options.out.glob("train-*"))], options.out / "report", None)
    _print_tables(folders, ["results"], options)
    _print_path("report", files.markdown, options)
    return DONE


def list_(options: argparse.Namespace) -> int:
    from harness.core import presets
    from harness.core.discovery import descriptions
    from harness.core.recipes import methods_of_settings

    found = presets.titles() if options.kind == "presets" else descriptions(options.kind)
    if options.kind == "objectives":
        found = {**{name: method.description for name, method in methods_of_settings().items()}, **found}
        found = dict(sorted(found.items()))
    width = max(map(len, found), default=0)
    text = "\n".join(f"{plugin_id:{width}}  {description}" for plugin_id, description in found.items())
    _print(found, options, text)
    return DONE


def show(options: argparse.Namespace) -> int:
    from harness.show import show

    settings = _overrides(options)
    if options.preset is not None:
        settings["prompt"] = options.preset
    print(show(options.name, split=options.split, problem=options.problem, settings=settings, model=options.model))
    return DONE


def fetch(options: argparse.Namespace) -> int:
    from harness.fetch import fetch

    progress = _progress(options)
    tasks = {name: _task(name, options) for name in options.tasks}
    return _print_made(
        [fetch(name, task, again=options.again, progress=progress) for name, task in tasks.items()], options
    )


def standings(options: argparse.Namespace) -> int:
    from harness.core.config import parse_plugin
    from harness.standings import API, contests_of, fetch_standings

    task = parse_plugin("tasks", "codeforces").build("tasks")
    contests = options.contests if options.contests else contests_of(list(task.on_record("test")))
    api = options.api if options.api is not None else API
    return _print_made([fetch_standings(options.file, contests, _progress(options), api=api)], options)


def validate(options: argparse.Namespace) -> int:
    from harness.evaluate import problems_of
    from harness.validate import summary, surprises, validate

    tables, found = [], []
    tasks = {name: _task(name, options) for name in options.tasks}
    for name, task in tasks.items():
        problems = problems_of(task, options.split, 0, options.limit)
        findings = validate(name, task, problems, _progress(options))
        tables += [summary(name, findings), surprises(name, findings)]
        found += [finding for finding in findings if not finding.is_as_known]
    _print_made([table for table in tables if table.rows], options)
    if not found:
        return DONE
    return UNGRADED if all(finding.is_ungraded for finding in found) else FAILED


def overlap(options: argparse.Namespace) -> int:
    from harness.core.config import parse_plugin
    from harness.overlap import counted, listed, overlap, statements

    train = statements(options.train, parse_plugin("tasks", options.train).build("tasks"), "train")
    test = statements(options.test, _task(options.test, options), "test")
    pairs = overlap(train, test, near=options.near)
    return _print_made(
        [counted(options.train, options.test, len(test), pairs), *([listed(pairs)] if pairs else [])], options
    )


def doctor(options: argparse.Namespace) -> int:
    from harness.doctor import diagnosis, explain

    if options.explain is not None:
        text = explain(options.explain)
        _print({options.explain: text.splitlines()}, options, text)
        return DONE
    sections = diagnosis()
    lines = [line for name, facts in sections.items() for line in _section(name, facts)]
    _print(sections, options, "\n".join(lines))
    return DONE


# --- between the parser and the verbs ---------------------------------------------------------------------------


def _task(name: str, options: argparse.Namespace) -> Any:
    """A task by its id, with the options given by --set."""
    from harness.core.config import parse_plugin

    return parse_plugin("tasks", {"id": name, **_overrides(options)}).build("tasks")


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """All of --set as one tree, so that it does not matter whether an id comes before or after its options."""
    from harness.core.config import merge, parse_override

    return merge(*map(parse_override, options.set))


def _strictness(options: argparse.Namespace) -> dict[str, Any]:
    return {"strict_data": True} if options.strict_data else {}


def _engine(options: argparse.Namespace) -> dict[str, Any]:
    return {"engine": {"id": options.engine}} if options.engine is not None else {}


def _rollouts(options: argparse.Namespace) -> dict[str, Any]:
    """The flags about saved rollouts, as a config tree."""
    only = {"only": True} if options.rollouts_only else {}
    source = {"source": str(options.from_rollouts)} if options.from_rollouts is not None else {}
    return {"rollouts": only | source} if only or source else {}


def _export_flags(options: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given, as a config tree."""
    drawn = {"temperature": options.temperature, "max_tokens": options.max_tokens}
    sampling = {key: value for key, value in drawn.items() if value is not None}
    flags = {
        "tasks": _listed(options.tasks),
        "grader": {"id": options.grader} if options.grader is not None else None,
        "sampling": sampling if sampling else None,
        **{key: getattr(options, key) for key in ("split", "n", "limit")},
    }
    return {key: value for key, value in flags.items() if value is not None}


def _eval_flags(options: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given, as a config tree."""
    flags = {
        "tasks": _listed(options.tasks),
        "problems": _listed(options.problem),
        "engine": {"id": options.engine} if options.engine is not None else None,
        "grader": {"id": options.grader} if options.grader is not None else None,
        "sampling": {"max_tokens": options.max_tokens} if options.max_tokens is not None else None,
        **{key: getattr(options, key) for key in ("preset", "split", "n", "limit", "seed")},
    }
    return {key: value for key, value in flags.items() if value is not None}


def _listed(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",")] if text is not None else None


def _default_folder(name: str, config: Any) -> Path:
    """The same command always means the same folder, so that it resumes."""
    from harness.core.config import digest, to_tree

    return Path("runs") / f"{name}-{digest(to_tree(config, identity_only=True))[:8]}"


def _progress(options: argparse.Namespace) -> Any:
    from harness.core.progress import Progress

    return Progress(quiet=options.quiet)


def _print(value: Any, options: argparse.Namespace, text: object) -> None:
    print(json.dumps(value, indent=1) if options.json else text)


def _print_path(what: str, path: Path, options: argparse.Namespace) -> None:
    if not options.json:
        print(f"{what}: {path}")


def _print_config(
    config: Any, folder: Path, options: argparse.Namespace, facts: Mapping[str, Any] = {}, lines: Sequence[str] = ()
) -> int:
    """The resolved config, which stays a TOML file whatever else is told in `lines`."""
    from harness.core.config import to_toml, to_tree

    text = "\n".join([f"# would run in {folder}", *lines, to_toml(config)])
    _print({"folder": str(folder), "config": to_tree(config), **facts}, options, text)
    return DONE


def _print_tables(folders: Sequence[Path], table_ids: Sequence[str], options: argparse.Namespace) -> None:
    from harness.reports.build import tables_of
    from harness.reports.render import to_plain, to_terminal

    tables = tables_of(folders, table_ids)
    _print([to_plain(table) for table in tables], options, "\n\n".join(to_terminal(table) for table in tables))


def _print_made(tables: Sequence[Any], options: argparse.Namespace) -> int:
    from harness.reports.render import to_plain, to_terminal

    _print([to_plain(table) for table in tables], options, "\n\n".join(to_terminal(table) for table in tables))
    return DONE


def _section(name: str, facts: Mapping[str, str]) -> list[str]:
    width = max(map(len, facts), default=0)
    return [f"{name}:", *(f"  {key:{width}}  {value}" for key, value in facts.items())]
