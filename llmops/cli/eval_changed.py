"""`llmops eval changed`: the suites of the prompts that differ from a git commit's, run and gated."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.eval import open_evaluations
from llmops.cli.output import FILE, echo, emit, json_option, print_table, say, write_file
from llmops.errors import BadFile, CannotRun
from llmops.settings import Settings, data_folder, describe_folder

if TYPE_CHECKING:
    from llmops.api.results import GateResult
    from llmops.versions import PromptVersion


@dataclass(frozen=True)
class ChangedPrompt:
    """A prompt's versions that the commit does not have, and the last that it has; None for a new prompt."""

    name: str
    new: list[PromptVersion]
    before: PromptVersion | None


@click.command()
@click.option("--base", required=True, metavar="COMMIT", help="What to compare with: where HEAD left this commit.")
@click.option(
    "--inconclusive",
    type=click.Choice(["fail", "pass"]),
    default="fail",
    help="What it means for the exit code that the rows cannot tell.",
)
@click.option("--markdown", type=FILE, help="Also write Markdown.")
@json_option
def changed(base: str, inconclusive: str, markdown: Path | None, as_json: bool) -> None:
    """Run and gate the suites of the prompts that differ from a git commit's, as a pull request's check.

    Prompt files are registered, the commit's first. Each new version is gated against the last one that the commit has;
    a new prompt has only floors and ceilings to meet. Exit 1 if a gate does not pass.

    \b
    Example: llmops eval changed --base origin/main --markdown evals.md
    """
    settings = Settings.from_environment()
    folder = data_folder(settings, "prompts")
    say(describe_folder(folder))
    prompts = changed_prompts(settings, folder.resolve(), base)
    gates = [found for prompt in prompts for found in _gates(prompt)]
    verdicts = {gated.verdict.verdict for _, gated in gates}
    if markdown is not None:
        from llmops.evaluation.reports.markdown import markdown as as_markdown

        none = "" if gates else "No prompt with a suite has changed.\n"
        write_file(markdown, "# llmops evals\n\n" + none + "\n".join(as_markdown(gated.report) for _, gated in gates))
    emit(
        as_json,
        {
            "base": base,
            "changed": [version.ref for prompt in prompts for version in prompt.new],
            "gates": [{**compared, **gated.verdict.to_json()} for compared, gated in gates],
        },
        lambda: _show(base, gates),
    )
    sys.exit(0 if verdicts <= {"pass", *(["inconclusive"] if inconclusive == "pass" else [])} else 1)


def _gates(prompt: ChangedPrompt) -> Iterator[tuple[dict[str, str | None], GateResult]]:
    """Runs every suite of the prompt, and gates each of its new versions; gives `suite`, `prompt` and `against`."""
    from llmops.api.evaluation import evaluate, gate
    from llmops.evaluation.suite import suite_names

    evaluations = open_evaluations()
    suites = map(evaluations.suite, suite_names(data_folder(evaluations.settings, "eval_sets")))
    using = [suite.name for suite in suites if suite.prompt == prompt.name]
    if not using:
        say(f"note: {prompt.name} has changed, and no suite uses it")
    refs = [version.ref for version in ([prompt.before] if prompt.before else []) + prompt.new]
    for suite in using:
        runs = evaluate(suite, prompts=refs)
        before = runs[0] if prompt.before else None
        for version, run in zip(prompt.new, runs.runs[-len(prompt.new) :], strict=True):
            against = prompt.before.ref if prompt.before else None
            compared = {"suite": suite, "prompt": version.ref, "against": against}
            yield compared, gate(run, against=before, suite=suite)


def _show(base: str, gates: Sequence[tuple[dict[str, str | None], GateResult]]) -> None:
    if not gates:
        echo(f"no prompt with a suite has changed since {base}")
        return
    columns = ("suite", "prompt", "against", "verdict", "reasons")
    rows = [
        (*(text or "–" for text in compared.values()), gated.verdict.verdict, "\n".join(gated.verdict.reasons))
        for compared, gated in gates
    ]
    print_table(f"Prompts changed since {base}", columns, rows)


def changed_prompts(settings: Settings, folder: Path, base: str) -> list[ChangedPrompt]:
    """Registers the prompts that differ from those of the commit where HEAD left `base`; returns those with a version
    that is new. Raises CannotRun: git, the commit or a file is at fault."""
    from llmops.api.versions import register_prompts

    commit = _git(folder, "rev-parse", "--verify", "--end-of-options", f"{base}^{{commit}}").strip()
    fork = _git(folder, "merge-base", commit, "HEAD").strip()
    paths = _git(folder, "diff", "--name-only", "-z", "--relative", fork, "--", ".")
    paths += _git(folder, "ls-files", "--others", "--exclude-standard", "-z", "--", ".")
    names = sorted({path.partition("/")[0] for path in paths.split("\0") if "/" in path})
    names = [name for name in names if (folder / name).is_dir()]
    known: dict[str, list[PromptVersion]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        for path in _git(folder, "ls-tree", "-r", "--name-only", "-z", fork).split("\0"):
            if path.partition("/")[0] in known:
                (Path(scratch) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(scratch) / path).write_text(_git(folder, "show", f"{fork}:./{path}"), encoding="utf-8")
        earlier = [name for name in names if (Path(scratch) / name).is_dir()]
        if earlier:
            done = register_prompts(earlier, settings=dataclasses.replace(settings, prompts=Path(scratch)))
            for error in done.broken.values():  # which the change may be there to mend
                say(f"note: {base} has a prompt that cannot be read: {error.path.parent.name}/{error.path.name}")
            for _, version, _ in done.prompts:
                known[version.name].append(version)
    if not names:
        return []
    now = register_prompts(names, settings=settings)
    if now.broken:
        raise next(iter(now.broken.values()))
    found = []
    for name in names:
        refs = {version.ref for version in known[name]}
        new = [version for _, version, _ in now.prompts if version.name == name and version.ref not in refs]
        if new:
            found.append(ChangedPrompt(name, new, max(known[name], key=lambda v: v.version, default=None)))
    return found


def _git(folder: Path, *arguments: str) -> str:
    """What git prints. Raises CannotRun."""
    git = shutil.which("git")
    if git is None:
        raise CannotRun("git is not installed")
    done = subprocess.run([git, "-C", str(folder), *arguments], capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or "no common history; a clone must have all of it"
        raise CannotRun(f"git {' '.join(arguments)} in {folder}: {said.splitlines()[-1]}")
    try:
        return done.stdout.decode()
    except UnicodeDecodeError as error:
        raise BadFile(folder, f"git {' '.join(arguments)}: is no UTF-8") from error
