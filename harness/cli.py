"""The command line: parses, calls, prints. Results go to stdout, progress and errors to stderr.

Exit codes: 0 done, 1 the run failed, 2 the request is wrong (nothing was written), 3 done, but too many completions
could not be graded, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
from harness.core.discovery import refuse_lost_links
from harness.core.errors import HarnessError

DONE, FAILED, UNGRADED, INTERRUPTED = 0, 1, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    # Idle threads that spin take the cores from one another; this must be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = _parser().parse_args(arguments)
    try:
        refuse_lost_links()
        status: int = options.verb(options)
        sys.stdout.flush()  # so that a reader who has gone is noticed here
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("harness: interrupted; run the same command again to resume", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has gone, as in `harness list tasks | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return status


# --- verbs ------------------------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    from harness.core import config as configs
    from harness.show import find_config
    from harness.trainers.settings import TrainConfig

    path = find_config(options.config)
    config = configs.parse(TrainConfig, configs.merge(configs.read_toml(path), _overrides(options)))
    folder = options.out if options.out is not None else _default_folder(f"train-{path.stem}", config)
    if options.dry_run:
        return _print_config(config, folder, options)
    from harness.trainers.run import train

    view = train(config, folder, _progress(options))
    _print({"run": str(view.folder), "status": view.record.status, "last_step": view.steps()[-1]}, options, folder)
    return DONE


def _eval(options: argparse.Namespace) -> int:
    from harness.core import config as configs
    from harness.evaluate import EvalConfig, evaluate, too_many_ungraded

    given = configs.read_toml(options.config) if options.config is not None else {}
    config = configs.parse(EvalConfig, configs.merge(given, _eval_flags(options), _overrides(options)))
    folder = options.out if options.out is not None else _default_folder(f"eval-{Path(config.model.path).name}", config)
    if options.dry_run:
        return _print_config(config, folder, options)
    view = evaluate(config, folder, _progress(options))
    _print_tables([view.folder], ["results"], options)
    _print_path("run", folder, options)
    if not too_many_ungraded(config, view):
        return DONE
    reasons = folder / "verdicts.jsonl"
    print(
        f"harness: more than max_ungraded = {config.max_ungraded:g} of the completions could not be graded; "
        f"{reasons} says why",
        file=sys.stderr,
    )
    return UNGRADED


def _report(options: argparse.Namespace) -> int:
    from harness.reports.build import write_report

    files = write_report(options.runs, options.out, options.table if options.table else None)
    _print({"report": str(files.markdown), "tables": [str(path) for path in files.csv]}, options, files.markdown)
    return DONE


def _demo(options: argparse.Namespace) -> int:
    from harness.reports.build import write_report
    from harness.study import demo

    folders = demo(options.out, options.steps, options.seed, _progress(options))
    files = write_report([*folders, *sorted(options.out.glob("train-*"))], options.out / "report", None)
    _print_tables(folders, ["results"], options)
    _print_path("report", files.markdown, options)
    return DONE


def _list(options: argparse.Namespace) -> int:
    from harness.core.discovery import descriptions

    found = descriptions(options.kind)
    width = max(map(len, found), default=0)
    text = "\n".join(f"{plugin_id:{width}}  {description}" for plugin_id, description in found.items())
    _print(found, options, text)
    return DONE


def _show(options: argparse.Namespace) -> int:
    from harness.show import show

    print(show(options.name, split=options.split, problem=options.problem))
    return DONE


def _doctor(options: argparse.Namespace) -> int:
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


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """All of --set as one tree, so that it does not matter whether an id comes before or after its options."""
    from harness.core.config import merge, parse_override

    return merge(*map(parse_override, options.set))


def _eval_flags(options: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given, as a config tree."""
    sampling = {"temperature": options.temperature, "max_tokens": options.max_tokens}
    flags = {
        "model": {"path": options.model} if options.model is not None else None,
        "tasks": [name.strip() for name in options.tasks.split(",")] if options.tasks is not None else None,
        "engine": {"id": options.engine} if options.engine is not None else None,
        "sampling": {key: value for key, value in sampling.items() if value is not None},
        **{key: getattr(options, key) for key in ("split", "n", "limit", "seed")},
    }
    return {key: value for key, value in flags.items() if value is not None}


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


def _print_config(config: Any, folder: Path, options: argparse.Namespace) -> int:
    from harness.core.config import to_toml, to_tree

    _print({"folder": str(folder), "config": to_tree(config)}, options, f"# would run in {folder}\n{to_toml(config)}")
    return DONE


def _print_tables(folders: Sequence[Path], table_ids: Sequence[str], options: argparse.Namespace) -> None:
    from harness.reports.build import tables_of
    from harness.reports.render import to_plain, to_terminal

    tables = tables_of(folders, table_ids)
    _print([to_plain(table) for table in tables], options, "\n\n".join(to_terminal(table) for table in tables))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _section(name: str, facts: Mapping[str, str]) -> list[str]:
    width = max(map(len, facts), default=0)
    return [f"{name}:", *(f"  {key:{width}}  {value}" for key, value in facts.items())]


# --- the parser -------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness",
        description="Train a language model with FlowRL or a rival, evaluate it, and get tables that can be believed.",
        epilog="Begin with `harness demo`. Each verb has --help with an example.",
    )
    parser.add_argument("--version", action="version", version=f"harness {harness.__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_train(verbs)
    _add_eval(verbs)
    _add_report(verbs)
    _add_demo(verbs)
    _add_list(verbs)
    _add_show(verbs)
    _add_doctor(verbs)
    return parser


def _add_train(verbs: Any) -> None:
    verb = _verb(
        verbs, "train", _train, "train a model", "harness train countdown-flowrl --set loop.steps=40 --out runs/a"
    )
    verb.add_argument("config", help="a TOML file, or the name of a recipe (`harness show NAME` prints it)")
    _add_run_options(verb)


def _add_eval(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "eval",
        _eval,
        "evaluate a model",
        "harness eval countdown-tiny --tasks countdown --n 16 --temperature 0.6",
    )
    verb.add_argument("model", nargs="?", help="a model directory, a train run, a bundled model or a hub id")
    verb.add_argument("--config", type=Path, help="a TOML file with any of these settings, and the others")
    verb.add_argument("--tasks", help="ids, separated by commas")
    verb.add_argument("--engine", help="what generates (default: hf)")
    verb.add_argument("--split", help="train, validation or test (default: test)")
    verb.add_argument("--n", type=int, help="samples a problem (default: 16); a larger n extends a run")
    verb.add_argument("--limit", type=int, help="only the first problems; a larger limit extends a run")
    verb.add_argument("--temperature", type=float, help="instead of the task's own; 0 is greedy")
    verb.add_argument("--max-tokens", type=int, help="instead of the task's own")
    verb.add_argument("--seed", type=int, help="of the samples (default: 0)")
    _add_run_options(verb)


def _add_report(verbs: Any) -> None:
    verb = _verb(verbs, "report", _report, "tables from run folders", "harness report runs/* --out report")
    verb.add_argument("runs", nargs="+", type=Path, help="run folders; a train run brings its held-out evaluations")
    verb.add_argument("--out", type=Path, default=Path("report"), help="where report.md and the CSV files go")
    verb.add_argument("--table", action="append", help="only this table; may be repeated (default: all)")
    verb.add_argument("--json", action="store_true", help="machine-readable output")


def _add_demo(verbs: Any) -> None:
    verb = _verb(verbs, "demo", _demo, "GRPO and FlowRL side by side, on this machine", "harness demo --out runs/demo")
    verb.add_argument("--out", type=Path, default=Path("runs/demo"), help="where everything goes")
    verb.add_argument(
        "--steps", type=_positive, default=DEMO_STEPS, help=f"of training, each arm (default: {DEMO_STEPS})"
    )
    verb.add_argument("--seed", type=int, default=0, help="of the training (default: 0)")
    _add_output_options(verb)


def _add_list(verbs: Any) -> None:
    verb = _verb(verbs, "list", _list, "what there is of a kind, one id a line", "harness list tasks")
    verb.add_argument("kind", choices=("tasks", "engines", "graders", "metrics", "objectives", "tables"))
    verb.add_argument("--json", action="store_true", help="machine-readable output")


def _add_show(verbs: Any) -> None:
    verb = _verb(
        verbs, "show", _show, "one task, objective, recipe or run in full", "harness show countdown --problem 3"
    )
    verb.add_argument("name", help="an id (or kind/id), a recipe, or a run folder")
    verb.add_argument("--problem", type=int, help="of a task: this problem, counted from 0, as a model gets it")
    verb.add_argument("--split", choices=("train", "validation", "test"), default="test")


def _add_doctor(verbs: Any) -> None:
    verb = _verb(verbs, "doctor", _doctor, "what is installed, and what could be", "harness doctor --explain vllm")
    verb.add_argument("--explain", metavar="EXTRA", help="one extra in full")
    verb.add_argument("--json", action="store_true", help="machine-readable output")


def _verb(verbs: Any, name: str, call: Any, purpose: str, example: str) -> argparse.ArgumentParser:
    epilog = f"example: {example}"
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=purpose, description=purpose, epilog=epilog)
    verb.set_defaults(verb=call)
    return verb


def _add_run_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="section.key=value, a TOML value")
    verb.add_argument("--out", type=Path, help="the run folder (default: runs/ and a name made of the config)")
    verb.add_argument("--dry-run", action="store_true", help="print the resolved config and stop")
    _add_output_options(verb)


def _add_output_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--quiet", action="store_true", help="no progress")
    verb.add_argument("--json", action="store_true", help="machine-readable output")


DEMO_STEPS = 160
