# SPDX-License-Identifier: Apache-2.0
"""What can be found about a policy and its words: a sentence and what to do, by cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CAUSES", "OVERALL", "Cause"]


@dataclass(frozen=True)
class Cause:
    """title: a few words. sentence: for people who do not train policies. todo: in this order."""

    title: str
    sentence: str
    todo: tuple[str, ...] = ()


CAUSES: Mapping[str, Cause] = {
    "adapters-not-loaded": Cause(
        "The trained adapters are not in the policy",
        "What acts is the base: training left nothing in these weights, so the policy cannot know more than"
        " its base did. The other checks then describe the base.",
        (
            "look for the adapter's files beside the checkpoint and load them with their base (chefmate"
            " up --policy ADAPTER), or merge them again: chefmate train ... --resume --merge",
            "compare with chefmate params, which says what should have been trained",
        ),
    ),
    "text-cut": Cause(
        "The words do not reach the policy",
        "Different sentences become the same input, or the same features, so the policy cannot tell them"
        " apart whatever it has learned.",
        (
            "look at truncation and max_length in the checkpoint's tokenizer.json, and at what the prompt"
            " does with the instruction",
            "if the policy was trained that way, mend it and train again: nothing about words was learned",
        ),
    ),
    "slot-at-base": Cause(
        "The robot's own encoders and decoder were not trained",
        "Adapters changed, but the embodiment's row, which maps this robot's joints, is as in its base.",
        ("train with tune_projector on: chefmate params shows the row as trained whole, under LoRA too",),
    ),
    "not-as-recorded": Cause(
        "What was trained is not what the run says",
        "The weights that differ from the base are not those that the training options name.",
        ("run chefmate params with the recorded options, and train again what is missing",),
    ),
    "data-cannot-teach": Cause(
        "The training data cannot teach the words",
        "In the episodes that it was trained on, the picture alone says what is going to be done, before the"
        " arm moves. Nothing made the policy read the sentence.",
        (
            "record scenes that hold several ingredients, and each scene once for each ingredient;"
            " chefmate data shortcut FOLDER says how many are missing",
            "then train again; a few such scenes more are worth more than many of one ingredient",
        ),
    ),
    "wrong-words": Cause(
        "It was trained with words that were not the episodes' own",
        "The data can teach the words, and the policy has learned to act on what it sees in it; but told the"
        " sentence of another ingredient it predicts the demonstrated action as well as with the right one."
        " The words that it was given in training said nothing about what was done: a mistake in how batches"
        " are made, such as one sentence for a whole batch (LeRobot's port of GR00T has that).",
        (
            "look at what the training loop makes of a batch with two different instructions: the prompts"
            " must differ",
            "train the same data with chefmate train, which takes each sample's own words",
        ),
    ),
    "not-learned-yet": Cause(
        "It has not learned to act on this data yet",
        "Neither another sentence nor another picture makes it predict the demonstrated actions worse: it is"
        " too early to ask whether it obeys.",
        ("train longer, and look at the held-out loss first",),
    ),
    "features-not-apart": Cause(
        "The instructions cannot be told apart in the features",
        "Where the action head reads, a linear probe does not find which ingredient is named.",
        (
            "train the language model too (tune_llm), or use sentences that differ in more than one word",
            "compare with the base: if it is the same there, the base does not understand these words",
        ),
    ),
    "head-ignores": Cause(
        "The action head does not use the words",
        "Which ingredient is named can be read from the features that the action head gets, but the actions"
        " do not depend on it. So the frozen backbone is not the reason.",
        (
            "give the data that it was trained on (--data FOLDER): it tells whether that data can teach"
            " words, and whether training used the right ones",
            "if both are in order, train the head longer, with tune_diffusion_model and tune_projector on",
        ),
    ),
    "words-misread": Cause(
        "Words change what it does, but not to what they say",
        "Another sentence makes other actions, and those do not lead to what is named.",
        (
            "look whether the names are among those that it was trained with",
            "look at the labels of the training data: chefmate data inspect FOLDER --plot",
        ),
    ),
    "learned-elsewhere": Cause(
        "It reads the words in its training data, but not here",
        "On the episodes that it was trained on the sentence matters, on these scenes it does not: they are"
        " too unlike what it knows, or it has learned its episodes by heart.",
        ("train on more layouts, with other light, camera and start poses",),
    ),
    "acts-unasked": Cause(
        "It acts although nothing is to be done",
        "When what is named is not there, when it is told not to, or told nothing, it touches something.",
        (
            "add episodes in which nothing is done: absent and unknown things, negations, the empty"
            " instruction (chefmate data generate --idle 2)",
        ),
    ),
    "deaf-in-mid-reach": Cause(
        "It finishes what it began instead of what it is told last",
        "At rest it goes to what is named; told otherwise on the way it goes on as before.",
        (
            "add episodes that begin on the way to something else (chefmate data generate --switches 1)",
            "execute fewer steps of each chunk before the next is asked for",
        ),
    ),
    "fumbles": Cause(
        "It goes to what is named, but does not finish the job",
        "This is a matter of skill, not of obedience: the ingredient that it touches is the named one, but"
        " often it is missed, lost, or not laid flat on the plate.",
        (
            "add demonstrations with recoveries (chefmate data generate --kicked 0.5), or aggregate from"
            " the policy's own states",
            "look at what the pictures of failed trials have in common",
        ),
    ),
}

# verdict over all: title, and what it means
OVERALL: Mapping[str, tuple[str, str]] = {
    "obeys": ("It obeys", "It does what the words say, and the words decide."),
    "fumbles": ("It obeys, but fumbles", "It goes to what the words name, but often fails to bring it home."),
    "in-part": (
        "It obeys in part",
        "The words count, but not as often, or not in all cases, as they should.",
    ),
    "disobeys": ("It does not obey", "What it does is not decided by the words."),
    "cannot-tell": ("Cannot tell", "The figures at hand do not decide whether it obeys."),
}
