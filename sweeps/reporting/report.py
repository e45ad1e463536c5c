"""What a report, a comparison or a card is made of."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from eval_workers.tracking.addresses import tracking_uri
from mmpo_train.config import digest_of
from mmpo_train.errors import InputError
from mmpo_train.options import STORAGE, Options, Repeated, Stored, base_config
from mmpo_train.redaction import masked
from mmpo_train.storage.whole_file import write_whole
from mmpo_train.tables import as_csv
from mmpo_train.terminal import print_text
from mmpo_train.typed.programs import as_typed, program_of
from sweeps.ledger.experiments import experiments_called
from sweeps.ledger.ledger import Ledger, connect_to_read
from sweeps.plan.order import STAGE_1
from sweeps.ranking.mc_po_numbers import PRINTED
from sweeps.reporting.compare import compare
from sweeps.reporting.cost import cost_table
from sweeps.reporting.figures import ablation, curves, trade_offs
from sweeps.reporting.missing import missing_sentences
from sweeps.reporting.model_card import write_card
from sweeps.reporting.numbers import POINT_HEADERS, every_point
from sweeps.reporting.opening import opening
from sweeps.reporting.page import Block, Heading, Listing, Text, write_page
from sweeps.reporting.read import Experiment, experiments_of, read_experiment
from sweeps.reporting.searches import check_searches, of_search
from sweeps.reporting.tables import SPREAD_HEADERS, peak_table, stability, study_tables, tuned_table

_NOISE = (
    "Accuracies and rates are in percent, followed by their noise: the standard deviation over seeds where a point has "
    "several, else the metric's own standard error (binomial for reward accuracy, LM Harness's and the judges' own). "
    "A difference is ours minus the paper's, in percentage points; it is within noise where it is at most 1.96 times "
    "the noise of a difference of two such numbers, the paper's one run taken to be as noisy as one of ours, since it "
    "prints no errors. A dash is a number that is not there: nothing is filled in or interpolated, and the last "
    "section says what is missing."
)
FINDING = (
    "On the ablation without in-batch normalisation: with the auxiliary term and two completions MMPO's loss is "
    "exactly -s_w, since logsumexp(s_w, s_l) + log σ(s_w - s_l) = s_w. Its gradient is that of the chosen completion's "
    "log-probability alone, whatever the rewards are. Training without in-batch normalisation has therefore the same "
    "gradients as the full objective; only the scores, and with them reward accuracy, differ. What distinguishes these "
    "two lines in win rate and harness accuracy is noise."
)
HOW_TO_READ = (
    "The thick line is the winner. `docs/reading-the-curves.md` says why chosen rewards fall, what saturation, length "
    "bias and beta-blindness look like, and what to do."
)
BLIND_TO_BETA = (
    "For the same reason MMPO as published is stable by construction: neither beta nor r_eps nor the normalisation "
    "groups are in its gradient. With one seed its models differ over beta by rounding alone, and what its harness "
    "accuracies and win rates differ by is noise; reward accuracy differs since beta is in the score."
)


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Stored):
    """Write what a sweep found: Markdown, HTML, CSV and pictures, from MLflow alone."""

    storage: str = STORAGE
    """Storage of the sweep: a folder, s3://BUCKET/PATH or gs://BUCKET/PATH. Default: the value of MMPO_STORAGE, or
    runs."""
    tracking_uri: str = ""
    """MLflow server or database. Default: the value of MLFLOW_TRACKING_URI, or mlflow.db in the storage."""
    model: str = ""
    """Starting model, as it was given to the sweep. Default: the only one in the ledger."""
    dataset: Annotated[tuple[str, ...], Repeated] = ()
    """Preference data, as it was given to the sweep. Default: the data of the model's recipe."""
    experiment: tuple[str, ...] = ()
    """Name the experiments as in MLflow, instead of model and dataset. Several appear in the same tables. Default: the
    experiment of --model and --dataset."""
    objective: tuple[str, ...] = ()
    """Report these objectives only. Default: all in the ledger."""
    plugin: Annotated[tuple[str, ...], Repeated] = ()
    """Plug-in that a trial's objective comes from. Default: none."""
    search: tuple[str, ...] = ()
    """Report this search, by the key that the report prints, if an experiment has several: with other settings, seed or
    epochs, such as one of --quick. Default: the one that ended last."""
    out: Path | None = None
    """Folder to write to. Default: report/EXPERIMENT in the storage."""
    compare: tuple[str, ...] = ()
    """Compare the answers and the configs of two trials. Give their run ids, each as RUN or RUN:EPOCH. Default: write
    the report."""
    prompts: int = 40
    """Number of prompts in a comparison, evenly spread over all; 0 shows all."""
    card: str = ""
    """Write a model card for the checkpoint of a trial. Give its run id as RUN or RUN:EPOCH. Default: write the
    report."""
    push_to_hub: str = ""
    """Push that model card to this repository on the Hugging Face hub. Default: nothing is pushed."""
    push_checkpoint: bool = False
    """Push the checkpoint's files too. A repository that does not exist yet is made private."""
    license: str = ""
    """Licence that the card names, as the hub writes it, such as apache-2.0. Default: none."""


def _write(options: ReportOptions, ledger: Ledger) -> list[Path]:
    if options.compare or options.card:
        out = options.out or options.folder / "report"
        paths = compare(ledger, options.compare, out / "comparison", options.prompts) if options.compare else []
        if options.card:
            how = options.push_to_hub, options.license, options.push_checkpoint
            paths.append(write_card(ledger, options.card, out / "card", *how))
        return paths
    names = _experiments(options, ledger)
    experiments, absent = [], []
    for name in names:
        try:
            experiments.append(read_experiment(ledger, name, options.objective))
            lacking = [one for one in options.objective if one not in experiments[-1].objectives]
            absent += [f"there is no stage of {one} in the experiment {name!r}" for one in lacking]
        except InputError as error:
            absent.append(str(error))
    if not experiments:
        raise InputError("; ".join(absent))
    check_searches(options.search, experiments)
    experiments = [of_search(one, options.search) for one in experiments]
    for one in experiments:
        others = "".join(f"\n  not in it: {other}" for other in one.other_searches)
        chosen = "; --search KEY chooses another" if others else ""
        print_text(f"{one.name}: search {one.search or 'none'}{chosen}{others}")
    called = _folder_of(names)
    called += "".join(f", search {one.search.partition(' ')[0]}" for one in experiments if one.other_searches)[:60]
    out = options.out or options.folder / "report" / called
    return report(experiments, out, ledger.uri, absent)


def _folder_of(names: Sequence[str]) -> str:
    """A folder's name for these experiments, with a digest where others could be called so too."""
    whole = " and ".join(names)
    short = whole.replace("/", "_")[:150]
    return short if short == whole else f"{short} ({digest_of([whole])[:6]})"


def _experiments(options: ReportOptions, ledger: Ledger) -> list[str]:
    """The experiments that are meant. Raises InputError where that is not clear."""
    if options.experiment:
        return list(dict.fromkeys(options.experiment))
    if options.model or options.dataset:
        asked = Options(model=options.model or "tiny", dataset=options.dataset, storage=options.storage)
        found = experiments_called(ledger, base_config(asked))
    else:
        found = experiments_of(ledger)
    if len(found) == 1:
        return found
    if not found:
        raise InputError(f"the ledger at {ledger.uri} has no stage yet: run {as_typed(program_of(STAGE_1.name))} first")
    listed = "\n  ".join(found)
    which = "--experiment" if options.model or options.dataset else "--model, or --experiment"
    raise InputError(f"the ledger has several experiments; give {which} with one of\n  {listed}")


def report(experiments: Sequence[Experiment], out: Path, ledger: str, absent: Sequence[str] = ()) -> list[Path]:
    """Writes report.md, report.html, report.json, csv/ and figures/ into `out`; returns the two pages.

    `absent`: why experiments that were asked for are not in it.
    """
    title = "Preference optimisation: " + "; ".join(one.name for one in experiments)
    blocks: list[Block] = [
        Heading(1, title),
        *(Text(f"{one.name}: search `{one.search}`.") for one in experiments if one.search),
        *(Text(f"Missing: {why}.") for why in absent),
        *opening(experiments, out),
        Heading(2, "How to read the numbers"),
        Text(f"Read from MLflow at `{ledger}`. {_NOISE}"),
    ]
    if searched := [one for one in experiments if one.objectives]:
        blocks += [Heading(2, "Tables 1 and 2: language ability against preference")]
        blocks += [peak_table(searched, by_win_rate=by_win_rate) for by_win_rate in (False, True)]
        blocks += [Heading(2, "Table 3: tuned values"), tuned_table(searched)]
    spreads: list[tuple[object, ...]] = []
    for number, one in enumerate(experiments):
        folder = out / "figures"
        suffix, about = (f"_{number + 1}", f" of {one.name}") if len(experiments) > 1 else ("", "")
        shown, every = stability(one)
        spreads += every
        blocks += [Heading(2, f"Figures 1 and 2{about}: trajectories over epochs")]
        blocks += trade_offs(one, folder, suffix) or [Text("Missing: no final runs are in the ledger.")]
        blocks += [Heading(2, f"Figure 3{about}: ablations")]
        blocks += ablation(one, folder, suffix) or [Text("Missing: no ablations are in the ledger.")]
        blocks += [Text(FINDING)] if "mmpo" in one.objectives else []
        blocks += [Heading(2, f"Beta-stability{about}")]
        blocks += [Text(BLIND_TO_BETA)] if "mmpo" in one.objectives else []
        blocks += [shown.named(suffix)] if shown.table.rows else [Text("Missing: no stage over beta is in the ledger.")]
        blocks += [Heading(2, f"Reward accuracy in every stage{about}"), Text(HOW_TO_READ)]
        blocks += curves(one, folder, suffix)
        if studies := study_tables(one):
            said = f"Mean (± deviation over seeds) of final checkpoints. {PRINTED}"
            blocks += [Heading(2, f"Studies{about}"), Text(said), *(sheet.named(suffix) for sheet in studies)]
        blocks += [Heading(2, f"Cost{about}"), cost_table(one).named(suffix), Heading(2, f"What is missing{about}")]
        lacking = missing_sentences(one)
        blocks += [Listing(tuple(lacking))] if lacking else [Text("Nothing.")]
    pages = write_page(out, "report", title, blocks)
    points = [row for one in experiments for row in every_point(one)]
    write_whole(out / "csv" / "points.csv", as_csv(POINT_HEADERS, points))
    write_whole(out / "csv" / "beta_stability_by_epoch.csv", as_csv(SPREAD_HEADERS, spreads))
    return pages[:2]


def write_report(options: ReportOptions) -> None:
    """The report, a comparison or a card. Raises InputError where the ledger does not have what is asked for."""
    if options.push_to_hub and not options.card:
        raise InputError("--push-to-hub pushes a model card: say of which run with --card RUN")
    if options.push_checkpoint and not options.push_to_hub:
        raise InputError("--push-checkpoint needs a repository: name it with --push-to-hub")
    if options.compare and len(options.compare) != 2:
        raise InputError(f"--compare takes two runs, got {len(options.compare)}: give --compare RUN_A RUN_B")
    ledger = connect_to_read(options.tracking_uri, options.folder)
    if ledger is None:
        where = masked(tracking_uri(options.tracking_uri)) or options.folder / "mlflow.db"
        raise InputError(f"there is no ledger at {where}: run a sweep first, or give --storage or --tracking-uri")
    with closing(ledger):
        paths = _write(options, ledger)
    for path in paths:
        print_text(str(path))
