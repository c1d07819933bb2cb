"""lightning-gen compare RUN...: which runs are better, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_gen.comparison.baselines import fitting
from lightning_gen.comparison.models import grouped, labelled, steps
from lightning_gen.comparison.records import Found, find_records
from lightning_gen.comparison.settings import Disagreement, chosen, code_notes, columns, disagreements
from lightning_gen.comparison.standing import Standing, stand
from lightning_gen.comparison.table import print_table, write_tables
from lightning_gen.errors import UserError


def compare(
    runs: list[str],
    name: str | None = None,
    baseline: str | None = None,
    rank_by: str | None = None,
    across: str = "",
    force: bool = False,
    out: str | None = None,
) -> Path | None:
    """A table of evaluated runs: means over training seeds, paired differences, ranges of ranks.

    Args:
        runs: run directories, evaluation files, or benchmarks' directories, which mean all their runs.
        name: of the evaluation to read in each; "default", in a benchmark all that it measured.
        baseline: what the others are set against: a row's or a run's name, or its path; the first row by default.
        rank_by: fd, bits_per_dim, kid, ...; by default FD where all have it, else the likelihood.
        across: settings that differ on purpose: sampler, weights, estimator, joined by commas; they become columns.
        force: show numbers that were measured differently all the same, marked and without ranks.
        out: a directory for table.csv, runs.csv, table.md and compare.png.
    """
    found = find_records(runs, name)
    standing = standing_of(found, baseline=baseline, rank_by=rank_by, across=across.split(","), force=force)
    title = f"{len(standing.rows)} models" if len(standing.rows) > 1 else standing.rows[0].model.name
    print_table(standing, title)
    if out is None:
        return None
    folder = Path(out).resolve()
    write_tables(standing, title, folder)
    from lightning_gen.comparison import plot

    plot.write(standing, title, folder)
    return folder


def standing_of(
    evaluations: Found,
    *,
    baseline: str | None = None,
    rank_by: str | None = None,
    across: Sequence[str] = (),
    force: bool = False,
) -> Standing:
    """The standing of the models whose runs these are.

    Raises:
        UserError: numbers that were measured differently, unless `force`d; names the setting, and the way out.
    """
    free, records = chosen(across), evaluations.records
    found = disagreements(records, free)
    if found and not force:
        raise UserError(f"{found[0]}: {_way_out(found[0], free)}, or print them unranked with --force")
    models, notes = grouped(records)
    on_purpose = columns([model.records[0] for model in models], free)
    models = labelled(models, {"model": [model.name for model in models]} | steps(models) | on_purpose)
    fixed, said = fitting(evaluations.baselines, records)
    notes += [*evaluations.notes, *said, *code_notes(records)]
    return stand(
        models,
        rank_by=rank_by,
        baseline=baseline,
        fixed=fixed,
        disagreements=found,
        notes=notes,
    )


def _way_out(found: Disagreement, free: Sequence[str]) -> str:
    if found.across is None:
        return "evaluate one of them again as the other was"
    return f"compare across it with --across {','.join([*free, found.across])}"
