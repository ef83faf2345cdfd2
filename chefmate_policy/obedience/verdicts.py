# SPDX-License-Identifier: Apache-2.0
"""From the checks' figures to what is wrong and what to do.

Reads the result document of `chefmate obey`: `offline` (trainable set, separation, gap), `teaching` (the
training data, and whether its words matter to the policy), `closed_loop`. Each may be missing, and what
follows from the others is said then. Behaviour comes from the closed loop where there is one, else from the
action gap; causes are looked for where it does not obey, and certain faults of the checkpoint always.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from chefmate_policy.obedience.causes import CAUSES, OVERALL

__all__ = ["Finding", "Judgement", "judge"]

Figures = Mapping[str, Any]

OBEYS = 0.8  # lower bound of the first contacts that are what was named, for "it obeys"
MARGIN = 0.15  # above chance, upper bound: below it the words decide nothing that matters
PLACED = 0.9  # goal of slices laid flat on the plate; below it (upper bound) it fumbles
STILL = 0.9  # upper bound of "touched nothing" below which it acts unasked
CHANGED = 0.8  # upper bound of mid-reach changes obeyed below which it is deaf to them
GRAPH = 100  # trials of a row in the running graph, from which on they count instead of lockstep's
MATTERS = 0.02  # by which wrong words (or a wrong picture) must raise the loss, to matter
CHANGE = "change"  # in the ids of rows in which the instruction changes in mid-reach


@dataclass(frozen=True)
class Finding:
    """One cause. sure: certain (a comparison of bits), likely (intervals), or possible (what is left)."""

    cause: str
    sure: str
    evidence: tuple[str, ...] = ()
    more: tuple[str, ...] = ()  # to do, before the cause's own

    def to_dict(self) -> dict[str, Any]:
        """With the texts of the cause."""
        cause = CAUSES[self.cause]
        return {
            "cause": self.cause,
            "sure": self.sure,
            "title": cause.title,
            "sentence": cause.sentence,
            "evidence": list(self.evidence),
            "todo": [*self.more, *cause.todo],
        }


@dataclass(frozen=True)
class Judgement:
    """overall: key of causes.OVERALL. basis: figures that it rests on. findings: what matters most first."""

    overall: str
    basis: str
    findings: tuple[Finding, ...] = ()

    @property
    def title(self) -> str:
        """A few words."""
        return OVERALL[self.overall][0]

    @property
    def sentence(self) -> str:
        """The verdict for people."""
        return f"{OVERALL[self.overall][1]} {self.basis}"

    @property
    def causes(self) -> tuple[str, ...]:
        """Of the findings, in their order."""
        return tuple(finding.cause for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = [finding.to_dict() for finding in self.findings]
        return {
            "overall": self.overall, "title": self.title, "sentence": self.sentence, "basis": self.basis,
            "thresholds": THRESHOLDS, "findings": found,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For a terminal."""
        lines = [f"{self.title}: {self.sentence}"]
        for finding in self.findings:
            told = finding.to_dict()
            lines.append(f"- {told['title']} ({told['sure']}). {told['sentence']}")
            lines += [f"    seen: {line}" for line in told["evidence"]]
            lines += [f"    to do: {line}" for line in told["todo"]]
        return lines


THRESHOLDS = {
    "obeys_at_least": OBEYS, "over_chance_at_most": MARGIN, "placed_at_least": PLACED,
    "touched_nothing_at_least": STILL, "changes_at_least": CHANGED, "loss_raised_by": MATTERS,
}  # fmt: skip


def judge(result: Figures) -> Judgement:
    """The verdict and its causes, of a result document."""
    seen = _Seen.of(result)
    overall, basis = _behaviour(seen)
    findings = list(_of_checkpoint(seen))
    stopped = {finding.cause for finding in findings} & {"adapters-not-loaded", "text-cut"}
    if not stopped and overall in ("disobeys", "cannot-tell", "in-part"):
        findings += _of_learning(seen, overall)
    if "text-cut" in stopped and overall in ("cannot-tell", "disobeys"):
        overall = "disobeys"
    findings += _of_behaviour(seen, overall)
    if overall == "obeys" and any(
        finding.cause in ("acts-unasked", "deaf-in-mid-reach") for finding in findings
    ):
        overall = "in-part"
    if overall == "obeys" and any(finding.cause == "fumbles" for finding in findings):
        overall = "fumbles"
    return Judgement(overall, basis, tuple(findings))


@dataclass(frozen=True)
class _Seen:
    """The parts of a result, each {} where it is missing."""

    verdicts: Figures = field(default_factory=dict)  # of the offline checks, by name
    lines: Figures = field(default_factory=dict)
    trainable: Figures = field(default_factory=dict)
    separation: Figures = field(default_factory=dict)
    gap: Figures = field(default_factory=dict)
    data: Figures = field(default_factory=dict)
    words: Figures = field(default_factory=dict)
    rows: Figures = field(default_factory=dict)  # of the closed loop, by id

    @classmethod
    def of(cls, result: Figures) -> _Seen:
        checks = {row["check"]: row for row in (result.get("offline") or {}).get("checks", ())}
        checks = {name: row for name, row in checks.items() if row.get("possible")}
        figures = {name: row.get("figures") or {} for name, row in checks.items()}
        teaching = result.get("teaching") or {}
        closed = result.get("closed_loop") or {}
        graph = (row for row in (result.get("graph") or {}).get("rows", ()) if row["rightly"]["n"] >= GRAPH)
        return cls(
            verdicts={name: row["verdict"] for name, row in checks.items()},
            lines={name: row["line"] for name, row in checks.items()},
            trainable=figures.get("trainable", {}),
            separation=figures.get("separation", {}),
            gap=figures.get("gap", {}),
            data=teaching.get("data") or {},
            words=teaching.get("words") or {},
            rows={row["id"]: row for row in (*closed.get("rows", ()), *graph)},
        )


def _behaviour(seen: _Seen) -> tuple[str, str]:
    """Whether what is named is what is touched: overall verdict and basis."""
    row = seen.rows.get("named") or seen.rows.get("correct")
    targeted = (row or {}).get("targeted")
    if targeted and (choice := targeted.get("followed_if_contact")):
        low, high = choice["wilson_95"]
        chance = float(targeted.get("chance") or 0.0)
        basis = (
            f"Of the slices that it touched first, {_rate(choice)} were the named ones (chance {chance:.0%})."
        )
        if low >= OBEYS:
            return "obeys", basis
        if high <= chance + MARGIN:
            return "disobeys", basis
        return ("in-part" if low > chance else "cannot-tell"), basis
    verdict = seen.verdicts.get("gap")
    if verdict is None:
        return "cannot-tell", "It was neither run in the kitchen nor could its actions be compared."
    basis = f"Not run in the kitchen; of its first actions alone: {seen.lines['gap']}."
    kinds = {"follows": "obeys", "ignores": "disobeys", "contrary": "disobeys", "undirected": "disobeys"}
    return kinds.get(verdict, "cannot-tell"), basis


def _of_checkpoint(seen: _Seen) -> Iterator[Finding]:
    """Faults that are there whatever it does."""
    verdict = seen.verdicts.get("trainable")
    if verdict == "adapters_not_loaded":
        yield Finding("adapters-not-loaded", "certain", (seen.lines["trainable"],))
        return
    figures, actions = seen.separation, seen.gap
    equal = int(figures.get("identical_prompts") or 0)
    identical = seen.verdicts.get("separation") == "identical"
    if equal or identical:
        evidence = [seen.lines["separation"]]
        if equal:
            evidence.append(f"{equal} pairs of different instructions become the same tokens")
        if actions and actions.get("noise") == "pinned" and actions["largest_difference"] == 0.0:
            evidence.append("the actions under different instructions are equal to the last bit")
        yield Finding("text-cut", "certain", tuple(evidence))
        return
    if verdict in ("slot_at_base", "not_as_recorded"):
        yield Finding(verdict.replace("_", "-"), "certain", (seen.lines["trainable"],))


def _of_learning(seen: _Seen, overall: str) -> list[Finding]:
    """Why a policy whose words arrive does not go by them; the first is the likeliest."""
    apart, gap, data = seen.verdicts.get("separation"), seen.verdicts.get("gap"), seen.data.get("verdict")
    evidence = tuple(seen.lines[name] for name in ("gap", "separation") if name in seen.lines)
    if data == "CANNOT_TEACH_LANGUAGE":
        return [Finding("data-cannot-teach", "likely", (str(seen.data["reason"]), *evidence[:1]))]
    if apart == "not_apart" and not seen.trainable.get("language_changed"):
        return [Finding("features-not-apart", "likely", evidence[::-1])]
    if gap in ("undirected", "contrary"):
        return [Finding("words-misread", "likely", evidence)]
    if overall != "disobeys" and gap != "ignores":
        return []
    if seen.words and data == "TEACHES_LANGUAGE":
        words, sight = seen.words["words"], seen.words["sight"]
        told = (
            f"with another ingredient's sentence its error on the training data is {_more(words)},"
            f" with another scene's picture {_more(sight)}",
            f"the data can teach words: {seen.data['reason']}",
        )
        if words["high"] < MATTERS and words["high"] < sight["low"]:
            return [Finding("wrong-words", "likely", (*told, *evidence))]
        if words["low"] >= MATTERS and gap == "ignores":
            return [Finding("learned-elsewhere", "likely", (*told, *evidence))]
        if sight["high"] < MATTERS:
            return [Finding("not-learned-yet", "likely", (*told, *evidence))]
    if apart == "apart" and gap == "ignores":
        return [Finding("head-ignores", "likely" if seen.data else "possible", evidence)]
    if apart == "not_apart":
        return [Finding("features-not-apart", "possible", evidence[::-1])]
    return []


def _of_behaviour(seen: _Seen, overall: str) -> Iterator[Finding]:
    """What a policy that goes by its words still does wrong."""
    if overall not in ("obeys", "in-part"):
        return
    named = (seen.rows.get("named") or seen.rows.get("correct") or {}).get("targeted") or {}
    unasked, changes = [], []
    for key, row in seen.rows.items():
        if row.get("side") != "model":
            continue
        still, right = (row.get("idle") or {}).get("touched_nothing"), row.get("rightly")
        if CHANGE in key:
            if right and right["wilson_95"][1] < CHANGED:
                changes.append(f"{row['words']}: rightly in {_rate(right)}")
        elif row["wanted"] == "nothing" and still and still["wilson_95"][1] < STILL:
            unasked.append(f"{row['words']}: touched nothing in {_rate(still)}")
    if unasked:
        yield Finding("acts-unasked", "likely", tuple(unasked))
    if changes:
        yield Finding("deaf-in-mid-reach", "likely", tuple(changes))
    placed = named.get("placed_flat") or named.get("placed")
    if overall == "obeys" and placed and placed["wilson_95"][1] < PLACED:
        evidence = [f"laid flat on the plate in {_rate(placed)} (goal {PLACED:.0%})"]
        if named.get("no_contact"):
            evidence.append(f"touched nothing at all in {_rate(named['no_contact'])}")
        if named.get("grasped_named"):
            evidence.append(f"held what was named in {_rate(named['grasped_named'])}")
        yield Finding("fumbles", "likely", tuple(evidence))


def _rate(rate: Figures) -> str:
    low, high = rate["wilson_95"]
    return f"{rate['successes']} of {rate['n']} ({rate['rate']:.0%}; 95 %: {low:.0%} to {high:.0%})"


def _more(figure: Figures) -> str:
    """A raise of a loss, in words."""
    share = f"95 %: {figure['low']:+.0%} to {figure['high']:+.0%}, {figure['n']} layouts"
    return f"{figure['value']:+.0%} ({share})"
