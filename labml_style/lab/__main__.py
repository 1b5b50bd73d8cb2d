"""The command line of the lab: `python -m labml_style.lab`.

A mistake ends with one line on standard error and exit status 2; a run that was stopped
ends with 3 and goes on when it is started again.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

STOPPED = 3

SIGNALS = (signal.SIGINT, signal.SIGTERM)

PATIENCE = 5.0
"""Seconds after an interrupt in which another one changes nothing."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    try:
        words = sys.argv[1:] if arguments is None else arguments
        options = _parser().parse_args(_apart(words))
        status: int = options.command(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        for number in SIGNALS:  # of several at once the others have nothing to stop
            signal.signal(number, signal.SIG_IGN)
        print("interrupted; the same command goes on", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # head, for one, reads no further than it needs
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        text = " ".join(str(error).split())
        print(f"lab: {text}", file=sys.stderr)
        return 2


def _apart(words: Sequence[str]) -> list[str]:
    """Give each `name=value` after `--set` a `--set` of its own.

    So a preset's name may follow: `--set steps=5 batch=4 smoke`.
    """
    found: list[str] = []
    setting = False
    for word in words:
        if setting and "=" in word and not word.startswith("-"):
            if found[-1] != "--set":
                found.append("--set")
        else:
            setting = word == "--set"
        found.append(word)
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"lab: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m labml_style.lab", description="Run and record experiments."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Any], int], text: str) -> Any:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=run)
        return one

    def named(one: Any) -> None:
        text = "a preset: NAME, NAME@FORM, or FILE.py:NAME for one of your own"
        one.add_argument("name", metavar="NAME", help=text)
        one.add_argument("--form", choices=("cpu", "gpu"), help="the preset's form")

    def placed(one: Any) -> None:
        text = "folder of all runs (default: %(default)s)"
        one.add_argument("--out", type=Path, default=Path("runs"), help=text)

    placed(command("list", show, "List the presets and how far they are."))
    for name, text in (
        ("run", "Train and measure a preset; what is begun goes on."),
        ("resume", "Go on with a preset that was begun."),
    ):
        one = command(name, run, text)
        one.set_defaults(begun=name == "resume")
        named(one)
        placed(one)
        text = "other values, in all arms: --set steps=5 batch=4"
        how = dict(metavar="NAME=VALUE", action="append", default=[], help=text)
        one.add_argument("--set", **how)
        text = "a text of your own: its last tenth is held out, half valid, half test"
        one.add_argument("--text", metavar="FILE", help=text)
        one.add_argument("--minutes", type=float, help="stop after so many")
        one.add_argument("--device", choices=("cpu", "cuda"), help="where to compute")
        text = "seconds between checkpoints (default: %(default)s)"
        one.add_argument("--checkpoint", type=float, default=60.0, help=text)
    one = command("record", record, "Write the record of a preset that is done.")
    named(one)
    placed(one)
    one = command("verify", verify, "Measure kept weights again, against the record.")
    named(one)
    placed(one)
    one = command("data", data, "Fetch a corpus, check it, and say where it is from.")
    one.add_argument("name", metavar="NAME", help="a corpus")
    text = "Judge all records again, and write the pages that are made from them."
    one = command("results", results, text)
    text = "folder of the pages (default: %(default)s)"
    one.add_argument("--out", type=Path, default=Path("docs"), help=text)
    return parser


def show(options: argparse.Namespace) -> int:
    """List the presets."""
    from labml_style.lab import records
    from labml_style.lab.presets import every
    from labml_style.lab.runner import state_of

    for preset in every():
        runs = [state_of(preset, *one, options.out) for one in preset.runs()]
        done = f"{runs.count('done')}/{len(runs)} runs done"
        if "failed" in runs:
            done += f", {runs.count('failed')} failed"
        there = (records.FOLDER / f"{preset.title}.json").exists()
        print(f"{preset.title:22} {'recorded' if there else done}")
        print(f"{'':22} {preset.question}")
        print(f"{'':22} {preset.corpus}, about {preset.minutes:g} minutes in all")
    return 0


def run(options: argparse.Namespace) -> int:
    """Train and measure a preset."""
    import torch

    from labml_style.lab import presets, runner

    values = {}
    for text in options.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text}: expected name=value")
        values[name] = value
    if options.text is not None:
        if not Path(options.text).is_file():
            raise ValueError(f"--text {options.text}: there is no such file")
        values["corpus"] = options.text
    if options.minutes is not None and not options.minutes > 0:
        raise ValueError(f"--minutes is {options.minutes}; give a number above 0")
    preset = presets.find(options.name, options.form, gpu=torch.cuda.is_available())
    preset = preset.with_values(values)
    if options.begun:
        states = [runner.state_of(preset, *one, options.out) for one in preset.runs()]
        if set(states) == {"new"}:
            raise ValueError(f"{preset.title} was not begun in {options.out}; use run")
    late = _late(options.minutes)
    try:
        runner.run(
            preset,
            out=options.out,
            late=late,
            checkpoint_seconds=options.checkpoint,
            here=runner.processes(options.device),
        )
    except runner.Stopped as stopped:
        print(f"{stopped}; the same command goes on", file=sys.stderr)
        return STOPPED
    return 0


def _late(minutes: float | None) -> Callable[[], bool]:
    """Return a function that says whether to stop after this update.

    An interrupt waits for the end of the update, and until the checkpoint is written:
    in the middle of an update, weights and optimizer do not belong together. Another
    one within `PATIENCE` seconds is the same wish; a later one does not wait.
    """
    asked: list[float] = []

    def note(number: int, _: object) -> None:
        if not asked:
            asked.append(time.monotonic())
        elif time.monotonic() - asked[0] > PATIENCE:
            raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, note)
    end = None if minutes is None else time.monotonic() + 60 * minutes
    return lambda: bool(asked) or (end is not None and time.monotonic() > end)


def _shelf(options: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """Return the folders of records and of kept weights, where they are one's own."""
    from labml_style.lab import presets

    own = options.out / "records" if presets.is_own(options.name) else None
    return own, own


def record(options: argparse.Namespace) -> int:
    """Write a record, and the weights that are kept with it."""
    from labml_style.lab import pages, presets, records

    preset = presets.find(options.name, options.form)
    folder, kept = _shelf(options)
    found = records.collect(preset, options.out)
    print(records.write(found, folder))
    if preset.keep:
        print(records.keep(preset, options.out, kept))
    if "verdict" in found:
        print(f"{found['verdict']['verdict']}: {found['verdict']['text']}")
    if Path("docs/results.md").exists() and not presets.is_own(options.name):
        print(pages.write(Path("docs"), pages.result_files())[0])
    return 0


def verify(options: argparse.Namespace) -> int:
    """Measure kept weights again."""
    from labml_style.lab import presets, records

    preset = presets.find(options.name, options.form)
    worst = 0.0
    for name, found, recorded in records.verify(preset, *_shelf(options)):
        worst = max(worst, abs(found - recorded))
        print(f"{name}: {found:.4f} bits, recorded {recorded:.4f}")
    if worst > records.TOLERANCE:
        raise ValueError(
            f"{preset.title}: differs from its record by {worst:.4f} bits, more than "
            f"{records.TOLERANCE}"
        )
    return 0


def data(options: argparse.Namespace) -> int:
    """Fetch a corpus."""
    from labml_style import corpora

    corpus = corpora.load_corpus(options.name)
    sizes = (f"{split} {len(getattr(corpus, split)):,}" for split in corpora.SPLITS)
    print(f"{corpus.name}: {', '.join(sizes)} bytes ({corpus.source})")
    return 0


def results(options: argparse.Namespace) -> int:
    """Judge all records again, and write the pages that are made from them."""
    from labml_style.lab import pages, records

    records.judge()
    for files in (pages.result_files, pages.guide_files):
        for path in pages.write(options.out, files()):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
