"""Wordings of follow-up questions by topic: for training, and held out."""

from lisa_core.tabletop.patterns import Wordings
from lisa_core.tabletop.wordings import TRY_TO_SEE

FOLLOW_UPS: dict[str, Wordings] = {
    "colour": Wordings(
        (
            "[|and ][what|which] [colour|color] {is} {it}?",
            "[|and ]what is {its} [colour|color]?",
            "[|and ][what|which] [colour|color] {does} {it} have?",
            "[tell me|can you tell me] {its} [colour|color].",
            "[say|describe] {its} [colour|color], please.",
            "of which [colour|color] {is} {it}?",
            "I'd love to know {its} [colour|color].",
            "and {its} [colour|color], what is it?",
            "{is} {it} [green|black|yellow|white], or [what colour|what]?",
        ),
        ("[and of what|of what] [colour|color] {is} {it}?", "[say|I'd like to know] {its} colour."),
    ),
    "hold": Wordings(
        (
            "[|and ][which|what] part [do|can|should|would] I [hold|grab|grasp|take]?",
            "[|and ]where [do|can|should|would] I [hold|grab|grasp|take] {it}?",
            "[|and ]by which part [do|can|should] I [hold|lift|take] {it}?",
            "[at|on] which [end|place|spot] can [I|one|a hand] [hold|grip|take|lift] {it}?",
            "where [is|would be] the place for [a hand|gripping it|the fingers]?",
            "[and |]which part [is there to hold|is made for holding|does a hand take]?",
            "at [what|which] part [do people|would you] [hold|take|grip] {it}?",
        ),
        ("[at what part|at which spot] does one [grip|hold] {it}?", "which part is for [gripping|the hand]?"),
    ),
    "part": Wordings(
        (
            "[|and |now ][segment|find|show me|locate|mark|highlight] {its} {part}[|, please].",
            "[|and ]where {is} {its} {part}?",
            "and {its} {part}?",
            "what about {its} {part}?",
            TRY_TO_SEE + " {its} {part}.",
            "in which place {is} {its} {part}?",
            "now {its} {part}[||, please].",
            "[|and ]where can {its} {part} be [seen|found]?",
        ),
        ("[outline|spot|indicate] {its} {part}[|, please].", "whereabouts {is} {its} {part}?"),
    ),
    "place": Wordings(
        (
            "[|and ]what is {where}?",
            "[|and ][which|what] [thing|object] is {where}?",
            "[|and |now ][segment|find|show me|locate|mark] [what is|the thing] {where}[|, please].",
            "[|and ]what [lies|stands|do you see] {where}?",
            TRY_TO_SEE + " [what is|the thing|the object] {where}.",
            "[what|which thing] has its place {where}?",
            "and {where}[|, what is there|, what do you see]?",
            "what did [you|people] [put|leave] {where}?",
        ),
        ("[outline|spot|indicate] the object {where}[|, please].", "what [sits|is there] {where}?"),
    ),
    "other": Wordings(
        (
            "[|and ]where {is} {noun}?",
            "and {noun}?",
            "[|and ]what about {noun}?",
            "[|and |now ][segment|find|show me|locate|mark|highlight] {noun}[|, please| too].",
            "now {noun}[|, please].",
            TRY_TO_SEE + " {noun}[|| as well| next| too].",
            "next, {noun}[||, please].",
            "[|and ]how [does it look with|is it with] {noun}?",
            "what about [finding|showing me|marking] {noun}[|| too| as well| next]?",
        ),
        ("[outline|spot|indicate] {noun} [too|as well|next].", "[whereabouts {is}|how about] {noun}?"),
    ),
    "else": Wordings(
        (
            "[|and ]what else [can|could] I {to}?",
            "[|and ]is there [anything|something] else to {to}?",
            "[find|show me|give me|segment] something else [to|I can] {to}[|, please].",
            "and what else can one {to}?",
            "[what|which thing] more [is there to|can I] {to}?",
            "which other [thing|item] can one {to}?",
            "[nothing|no other thing] [more|else] to {to}?",
            "what other [object|item] [could|can] [one|I|you] {to}?",
        ),
        ("[anything|something] more to {to}?", "what other thing would do to {to}?"),
    ),
    "purpose": Wordings(
        (
            "[|and ]what {is} {it} [for|used for|good for]?",
            "[|and ]what can [I|you|one] do with {them}?",
            "[|and ]what [do people|does one] use {them} for?",
            "why would [people|someone|a robot] [have|want] {them}?",
            "[to what use|to what purpose] {is} {it} made?",
            "what [do people|does one|do you] have {them} for?",
            "to what end {is} {it} [there|made|used]?",
            "for what [do you need|does one use|would somebody want] {them}?",
            "what would [people|you|one] do with {them}?",
        ),
        ("[to what end|for what] do people have {them}?", "what would a robot need {them} for?"),
    ),
}
