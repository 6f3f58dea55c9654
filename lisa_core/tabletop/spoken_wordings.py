"""Wordings of questions that are answered in words alone: for training, and held out as in `wordings`."""

from lisa_core.tabletop.patterns import Wordings

COUNT = Wordings(
    train=(
        "how many {nouns} are there[|| on the table| in the picture| in this image]?",
        "how many {nouns} [do you see|can you see|can you find|do you find]?",
        "how many {nouns} are [on the table|in the picture|in this image]?",
        "[|please |can you |could you ]count the {nouns}[|| on the table| for me].",
        "[tell me|do you know|can you tell me] how many {nouns} there are.",
        "what is the number of {nouns}[|| on the table]?",
        "how many {nouns} [lie|stand] here?",
        "[determine|say|state|report] how many {nouns} there are[||, please].",
        "what count of {nouns} [do you get|is there]?",
        "I'd [love|be glad] to know the number of {nouns} that we [have|see].",
        "[have we|have you] got {nouns}, and how many?",
        "how many {nouns} [lie about|would that be|can one take|are to be seen]?",
        "the [count|number] of {nouns}[||, please].",
    ),
    held_out=(
        "how many {nouns} [are lying around|could I use|have we got]?",
        "[give|say|determine] the [count|number] of {nouns}[|, please].",
        "I'd like to know how many {nouns} [we have|are here].",
    ),
)

COLOUR = Wordings(
    train=(
        "[what|which] [colour|color] {is} {it}[|| in the picture]?",
        "what is the [colour|color] of {it}?",
        "[what|which] [colour|color] {does} {it} have?",
        "[tell me|can you tell me|do you know|name] the [colour|color] of {it}[||, please].",
        "[tell me|do you know] [what|which] [colour|color] {it} {is}.",
        "[how|in which colour] {is} {it} painted?",
        "[say|describe|state] which [colour|color] {it} {does} have.",
        "I'd love to know the [colour|color] of {it}.",
        "of which [colour|color] {is} {it}?",
        "[tell me|I ask you]: {is} {it} [green|black|yellow|white], or [what colour|which colour|what]?",
        "{is} {it} [green|black|yellow|white] or [purple|orange|brown]?",
        "[and the|the] [colour|color] of {it}, [please|what is it]?",
    ),
    held_out=(
        "{is} {it} [red or blue|red, or what colour]?",
        "[say|describe|I'd like to know] [what colour {it} {is}|the colour of {it}][|, please].",
        "[of what|in what] [colour|color] {is} {it}?",
    ),
)

EXISTS = Wordings(
    train=(
        "is there {a}[|| on the table| in the picture| in this image| here]?",
        "[do|can] you see {a}[|| on the table| here]?",
        "[tell me|do you know] if there is {a}[|| on the table].",
        "is {a} [on the table|in the picture|there|here]?",
        "does the [picture|image] show {a}?",
        "are there any {nouns}[|| on the table| here]?",
        "[would|could] you [say|know] if {a} is [there|here]?",
        "has someone [put|left] {a} [here|on this table]?",
        "have you [got|found] {a}[| here]?",
        "[say|check|report] whether you see {a}.",
        "is {a} to be [seen|found|noticed|spotted] here?",
        "am I [right|wrong], or is there {a}?",
        "[would you|can you|could you] [tell|show] me if {a} is [around|on it|to be seen]?",
        "[did you|did anyone] [see|spot|notice] {a}[| here]?",
        "[is it true|are you sure] that there is {a}[| here]?",
    ),
    held_out=(
        "[have you|has anyone] [seen|spotted|noticed] {a}[| here]?",
        "[would you say|am I right] that there is {a}?",
        "[can {a}|could {a}] be seen[| here]?",
        "[say|I'd like to know] whether there is {a}.",
    ),
)

LIST = Wordings(
    train=(
        "what is on the table?",
        "what [can|do] you see[|| on the table| in the picture| here]?",
        "[which|what] [things|objects|items] are [on the table|in the picture|there|here]?",
        "[list|name] [the|all the|all] [things|objects|items][|| on the table| in the picture].",
        "[describe|tell me about] [the table|the picture|the scene|what you see].",
        "tell me what [you see|is on the table|is there].",
        "what is [there|here|in this picture|in the image]?",
        "[report|enumerate|go over|say] what you [see|find][| here].",
        "what [lies|stands] on this table?",
        "I'd love to know what you see[| on this table].",
        "[go through|enumerate] the picture.",
        "what [is lying|is standing|has been left] [here|on the table]?",
        "[I want to know|tell me] [what all there is|all that there is|everything that you see].",
    ),
    held_out=(
        "[enumerate|go through|report] [the things|everything] [you see|on this table][|, please].",
        "what [all ]is lying on this table?",
        "[I'd like to know what|say what] there is on the table.",
    ),
)

PURPOSE = Wordings(
    train=(
        "what {is} {it} [for|used for|good for|made for]?",
        "what [do people|do you|does one|do I] use {it} for?",
        "what can [I|you|one] do with {it}?",
        "[tell me|can you tell me|explain] what {it} {is} for.",
        "what is the [use|purpose] of {it}?",
        "why would [people|someone|a robot] [have|want|need] {it}?",
        "to what [use|purpose] {is} {it} made?",
        "[describe|say] the [use|purpose] of {it}.",
        "what [do people|does one|do you] have {it} for?",
        "to what end {is} {it} [there|made|used]?",
        "for what [do you need|does one use|would somebody want] {it}?",
        "[describe|say] what one does with {it}.",
        "what would [people|you|one] do with {it}?",
    ),
    held_out=(
        "[to what end|for what] do people have {it}?",
        "what would [someone|a robot] need {it} for?",
        "[describe|say] what {it} {is} [used for|good for].",
    ),
)
