"""Wordings of questions: for training, and held out.

Whatever is in the slots, no expansion of a held-out pattern is one of a training pattern: they use other verbs or
another structure.
"""

from lisa_core.tabletop.patterns import Wordings

_TRY_TO = "[try to|you should|it would help to|I ask you to|your task is to|now it is time to]"
TRY_TO_SEE = (
    _TRY_TO
    + " [outline|spot|detect|identify|indicate|circle|mask out|recognise|pinpoint|trace|pick out|segment|find|mark]"
)
"""Teaches the verbs that held-out wordings begin with: a model from scratch must have read a word to know it."""

SHOW = Wordings(
    train=(
        (
            "[|please |now |robot, ][segment|find|show me|show|locate|mark|highlight|select|mask|label] {it}"
            "[|| please|, please| for me| in the picture| in this image| on the table]."
        ),
        "[|please |robot, ][find|locate|search for|look for|point to|point at|point out] {it}[|| please| for me].",
        (
            "[could|can|would|will]"
            " you [|please ][segment|find|show me|locate|mark|highlight|point to|see and mark] {it}"
            "[|| for me| please| on the table| in the image]?"
        ),
        "where {is} {it}?",
        "where {is} {it}[| on the table| in the picture| in this image| now|, please]?",
        "where [can|could|do] I [find|see|get] {it}?",
        "where did I [put|leave] {it}?",
        "[tell me|show me|can you tell me|could you show me|do you know|I wonder] where {it} {is}[.|, please.]",
        "I [need|want|would like|would like to have|am looking for|am searching for|cannot find] {it}[|, please].",
        (
            "[|please |robot, ][pick up|grab|take|fetch|get|get me|bring me|give me|pass me|lift]"
            " {it}[||, please| for me]."
        ),
        (
            "[could|can|would|will]"
            " you [|please ][pick up|grab|take|fetch|get me|bring me|give me|pass me] {it}[|, please]?"
        ),
        (
            "[|the|give me the|I need the|output the|return the|show the|produce a]"
            " [mask|segmentation|segmentation mask]"
            " [of|for] {it}[|, please]."
        ),
        "what {is} {it} in this image?",
        "which [one|thing|object] {is} {it}?",
        "{it}[||, please| please| in the picture].",
        TRY_TO_SEE + " {it}[||, please| now].",
        (
            "[the outline|the contour|all pixels|every pixel|the spot|the place|the position|the"
            " location|the region|the area] of {it}[||, please]."
        ),
        "[I'd|we'd|we would] [love|prefer|be glad] to [have|see|get|hold] {it}.",
        "[do you mind|would it be possible|would you be so kind as] to [show|find|give me|hand me|segment] {it}?",
        "[let us|let me] [find|have|look at|take|mark] {it}[||, please].",
        "[we|people|they] [lost|need|want|miss|are missing|are looking for|wish for] {it}.",
        "[reach|go|move|drive|come] over [there|here] and [get|grab|bring|hold] {it}[||, please].",
        "the whereabouts of {it}[||, please].",
        "[paint|colour|draw over] {it}[||, please].",
        "[I have trouble finding|start by showing me|begin by finding|it is about finding] {it}[||, please].",
        "[I am|people are] after {it}[||, please].",
        "what is the [spot|place|position|location|area] of {it}?",
        "[at|in] which [spot|position|area] can {it} be found?",
        "I'd [rather|also] [take|have|get|see] {it}[||, please].",
        "[just|only|simply|kindly|quickly] [show|find|mark|segment|outline|draw] {it}[||, please].",
        "which [pixels|parts of the picture|parts of the image] [are|show|contain] {it}, do you think?",
        "[on|in|at] [what|which] [side|part|corner|end] of the table {is} {it}?",
        "[what|which] [spot|place] on the table has {it}?",
        "[is there a chance to see|show, if you can,|if it is there, mark] {it}[||, please].",
        "[drive|walk|come|move|get] [up to|close to|near|as far as] {it}[||, please| now].",
        "I'd like you to [take|bring me|mark|look for|point at] {it}[|, please].",
        "[take|have] a look at {it}[||, please] and [mark it|show it|mask it].",
    ),
    held_out=(
        (
            "[|please |robot, |now ][outline|spot|detect|identify|indicate|mask out|circle] {it}"
            "[|| please| for me| in this picture| on this table]."
        ),
        "[could|can|would|will] you [|please |kindly ][outline|spot|detect|identify|indicate] {it}[|| for me| here]?",
        "[whereabouts|in which place] {is} {it}?",
        "[whereabouts|in what spot] on the table {is} {it}?",
        "[let me see|let me know where to find|help me find|help me locate] {it}[|, please].",
        "[draw|put|paint] [a mask|an outline|a contour] [around|over|on] {it}[|, please].",
        "[I wish to have|I'd like to see|I must find|I have lost|we are after] {it}.",
        "[go to|move to|reach for|drive to|pick out|hold] {it}[|, please| now].",
        "[which|what] pixels [belong to|are of|make up|show] {it}?",
        "I'd like you to [find|segment|fetch|grab|show me] {it}[|, please].",
        "[would you mind finding|do you mind showing me|how about finding] {it}?",
    ),
)

WHAT = Wordings(
    train=(
        "what {is} {where}?",
        "what {is} {where}[| in the picture| in this image| on the table]?",
        "[which|what] [thing|object|item] {is} {where}?",
        "what [lies|stands|is standing|is lying|can you see|do you see|do you find] {where}?",
        (
            "[|please |robot, ][segment|find|show me|locate|mark|highlight|point to|pick up|grab|bring me|give me]"
            " [what is|the thing|the object|the thing that is|whatever is] {where}[|, please| for me]."
        ),
        (
            "[could|can|would] you [segment|find|show me|locate|mark|point to|give me]"
            " [what is|the thing|the object|the thing that is] {where}?"
        ),
        "[tell me|can you tell me|I want to know|show me] what {is} {where}.",
        "where is the [thing|object] [that is |]{where}?",
        TRY_TO_SEE + " [what is|the thing|the object|whatever is] {where}[||, please].",
        "[let us|let me] [find|have|look at] [what is|the thing|the object] {where}[||, please].",
        "[what|which thing|which object] [did you see|was put|has its place|could you spot|is to be found] {where}?",
        "something is {where}: [what|outline it|which thing|show it|spot it].",
        "[can you|could you] tell what [is|lies|stands] {where}?",
        "{where}: what [is it|stands there|lies there|do you notice]?",
        "[take|have] a look {where}: [what|which thing] is [it|there|that]?",
        "[what|which object|which item] did [people|you|somebody] [leave|put down|place] {where}?",
        "[whatever is|the object|the item] {where}[||, please].",
    ),
    held_out=(
        "[which|what] [object|thing|item] can be [found|seen] {where}?",
        "[outline|spot|detect|identify|indicate] [what is|the thing|the object|whatever is] {where}[|, please].",
        "what [sits|has been put|did somebody put|is there] {where}?",
        "[let me see|help me find] [what is|the object] {where}[|, please].",
        "{where}, what [do you see|is there|can you find]?",
        "[would you mind showing me|I'd like to see] the thing {where}.",
    ),
)

OPEN_WHAT = Wordings(
    train=(
        "what {is} {where}[|| in the picture| in this image| on the table]?",
        "what [lies|stands|is standing|is lying|can you see|do you see|do you find] {where}?",
        (
            "[|please |robot, ][segment|find|show me|locate|mark|highlight|point to|pick up|grab|bring me|give me]"
            " [what is|what is|whatever is|everything|all that is] {where}[|, please| for me]."
        ),
        "[could|can|would] you [segment|find|show me|locate|mark|point to|give me] [what is|everything] {where}?",
        "[tell me|can you tell me|I want to know|show me] what {is} {where}.",
        TRY_TO_SEE + " [what is|whatever is|everything] {where}[||, please].",
        "[let us|let me] [find|have|look at] [what is|all that is] {where}[||, please].",
        "what [did you see|was put|has its place|could you spot|is to be found] {where}?",
        "[can you|could you] tell what [is|lies|stands] {where}?",
        "{where}: what [stands there|lies there|do you notice]?",
        "[take|have] a look {where}: what is there?",
        "what did [people|you|somebody] [leave|put down|place] {where}?",
        "[whatever is|everything] {where}[||, please].",
    ),
    held_out=(
        "what can be [found|seen] {where}?",
        "[outline|spot|detect|identify|indicate] [what is|whatever is] {where}[|, please].",
        "what [sits|has been put|did somebody put|is there] {where}?",
        "[let me see|help me find] what is {where}[|, please].",
        "{where}, what [do you see|is there|can you find]?",
    ),
)
"""Questions whose answer may be one thing or several."""

USE = Wordings(
    train=(
        (
            "[||find|find me|show me|give me|bring me|segment|locate|I need|I want|I am looking for|get me|pass me]"
            " something [to|that I can|I can|I could] {to}[||, please]."
        ),
        (
            "[what|which thing|which one|which object|which of these|which of these things|which item]"
            " [can|could|should|would]"
            " [I|I|I|you|one|a person|somebody] {to}[|| here| on this table]?"
        ),
        (
            "[can|could|would|will] you [find|show|give|get|bring|pass|hand]"
            " me something [to|I can|that I can] {to}[|, please]?"
        ),
        "[is there|do you have|do you see] something [to|I can] {to}? [show me|show it|segment it|where is it].",
        "[what|which thing|which object] is [used|good|made|meant] to {to}?",
        (
            "[segment|find|show me|mark|highlight|point to] the [thing|object|item]"
            " [to|that one can|that I can|I could] {to}."
        ),
        "where is [something|the thing] [to|I can] {to}?",
        "[tell me|show me] what [I can|I could|to] {to}.",
        "I want to {want}. [what|which thing|which of these] [could|can|should] I [use|take]?",
        (
            "I [have to|need to|would like to|must|am going to|want to] {want}[.|,|;|, so]"
            " [what|which thing|which object] [could I use|can I use|should I use|do I need|should I take|would help]?"
        ),
        (
            "[what|which thing|which of these things]"
            " [do I need|could I use|can I use|should I take|would you use|is useful]"
            " [to|if I want to|when I want to] {want}?"
        ),
        (
            "[find|show me|give me|bring me|get me|segment]"
            " [something|the thing|what I need|a thing] to {want}[|, please]."
        ),
        "[what|which object] [helps me|would help me|will help me|can help me] {want}?",
        (
            "[give me|find|show me] [anything|an object|an item] that [would do|works|is suitable|is"
            " best|fits|is right] to {to}[||, please]."
        ),
        TRY_TO_SEE + " [something|anything|an object|an item] [to|I can|I could] {to}[||, please].",
        (
            "is there [anything|an item|an object] that would do to {to}? [outline it|hand it to me|spot"
            " it|which item is it]."
        ),
        (
            "it is my [plan|wish|task] to {want}[:|.] [which item|what|which thing] [is best|fits|would"
            " do|is the right one]?"
        ),
        (
            "[imagine that|suppose that|let us say that] [somebody wants|people want|we want] to {want}."
            " [what|which item] [would help|is required|is the right one|is best|do they take]?"
        ),
        "what it takes to {want}: [show it|find it|hand it over].",
        "to {want}, what [does one need|do people need|is required|should I reach for|do I grab|is there]?",
        "[have we|have you] [an item|an object|a thing] [to|that I can] {to}?",
        "what do [people|we|you] [use|take|need|want] in order to {want}?",
        "in order to {want} [I need|one takes|people need] [what|which of these things|which item]?",
        "{want}: [what|which item|which thing] [do I need for that|would do for that|helps with that]?",
        "[what|which thing] would [you|one] [hand|give|bring] [me|somebody] to {want}?",
        (
            "[show|find|hand] me [the right thing|the best item|what one takes] [to|if I want to|in order to]"
            " {want}[|, please]."
        ),
    ),
    held_out=(
        "[outline|spot|detect|identify|indicate] [something|an object|a thing] [to|that I could] {to}[|, please].",
        "[isn't there|have you got|let me have] [something|anything] to {to}?",
        "what would be [suitable|the right thing|best] to {to}?",
        "my plan is to {want}: what [do I take|is the thing for that|fits]?",
        "[suppose|imagine] I want to {want}. [what do I reach for|what should I grab|which item fits]?",
        "in order to {want}, [which item|what] [is required|would one use|do people use]?",
        (
            "[help me|I'd like to|it is time to] {want}[.|,]"
            " [hand me what it takes|hand me the right thing|which item is it]."
        ),
    ),
)

FACT = Wordings(
    train=(
        "[which|what] {noun} {asks}[|| here| on the table| in this picture]?",
        "which one [of these |of the things |]{asks}?",
        "which of these things {asks}?",
        (
            "[|please |robot, ][find|show me|segment|locate|mark|highlight|point to|give me|bring me|pick up]"
            " the {noun} that {does}[||, please| for me]."
        ),
        "[could|can|would] you [find|show me|segment|locate|mark|point to|give me] the {noun} that {does}?",
        "where is the {noun} that {does}?",
        "[tell me|show me|I want to know] [which|what] {noun} it is that {does}.",
        "[find|show me|segment|mark] [what|something that] {does}[|, please].",
        "[is there|do you see] [something|{a}] that {does}? [show me|show it|segment it].",
        "I [need|want|am looking for] the {noun} that {does}.",
        "the {noun} that {does}[|, please].",
        "what is the {noun} that {does}?",
        "what [on the table|in this picture|here] {asks}?",
        TRY_TO_SEE + " the {noun} that {does}[||, please].",
        "[let me have|let us see|I'd rather have] the {noun} that {does}[||, please].",
        "there should be {a} that {does}. [spot it|point at it|circle it|where is it].",
        "[from|out of] the things here, [which|what] one {asks}?",
        "can you [guess|work out|say|determine] [which|what] {noun} {does}?",
        "[have a look|look around]: [which|what] {noun} {asks}?",
        "[is any of this|is one of these] the {noun} that {does}? [mark it|then show it|where].",
    ),
    held_out=(
        "[outline|spot|detect|identify|indicate|name] the {noun} that {does}[|, please].",
        "[of all these things|among these], [which|what] {asks}?",
        "[let me see|help me find] the {noun} that {does}[|, please].",
        "[I'd like to see|I wonder about] the {noun} that {does}.",
        "[guess|say|work out] [which|what] {noun} it is that {does}[|, please].",
        "there must be {a} that {does}; [whereabouts is it|outline it].",
    ),
)

OPEN_USE = Wordings(
    train=(
        "what can I {to}?",
        "what can [I|you|one] {to}[| here| on this table]?",
        "[|please ][find|show me|segment|mark|give me|bring me] [everything|all|all the things] that I can {to}.",
        "which things [can|could] I {to}?",
        "what could I use to {want}?",
        TRY_TO_SEE + " [everything|all things|whatever] that one can {to}.",
        "which [items|objects] are there that I can {to}?",
        "what would do to {want}, all in all?",
        "which [things|objects|ones] [are useful|are good|are of use|serve|can be used] to {want}[||, please]?",
        "which [items|ones] [can|could] [one|you|somebody] {to}[||, please]?",
        "[bring|give|hand|pass|show] me [whatever|everything|all things] [I|one|you] can {to}[||, please].",
        "the [items|things|objects] [to|that I can|that one could] {to}[||, please].",
        "[do you see|are there] things [to|I can] {to}? [show them|mark them|take them|where are they].",
        "[what|whatever] there is to {to}[||, please].",
        "which [things|objects|of these|of the things here] [would help|serve|help|would be of use] to {want}?",
        "[mark|show|take] each [item|object|thing] [that one|that I|that you] can {to}[||, please].",
        "to {want}, which [things|items|objects] [are there|have we got|would do|can I take]?",
        "[given|with] [everything|all] that is here, [what|which ones] can [I|one|you] {to}?",
        "how many ways are there to {want}: [show them|mark them all|outline each].",
    ),
    held_out=(
        "[outline|spot|indicate] [everything|whatever] one can {to}.",
        "which items would do to {want}?",
        "what all is there to {to}?",
    ),
)
"""Questions whose answer may be one thing or several."""

OPEN_FACT = Wordings(
    train=(
        "what {asks}[|| here| on the table]?",
        "[|please ][find|show me|segment|mark] [everything|all] that {does}.",
        "[show me|tell me|find] what {does}.",
        "where is [everything|all] that {does}?",
        TRY_TO_SEE + " [everything|all things|whatever there is] that {does}.",
        "[from|out of] all things here, what {asks}?",
        "[bring|give|hand|pass] me [whatever|everything|all|anything] that {does}[||, please].",
        "[anything|whatever|everything] [here|on the table|in the picture] that {does}[||, please].",
        "[do you see|is there] anything that {does}? [mark all of it|show all of it|take all of it].",
        "what on this table {asks}[||, please]?",
        "[given|with] [everything|all] [that you see|that is here], [which|what] {asks}?",
        "[mark|show|take] [each thing|every object|all things] that {does}[||, please].",
        "which one, or which ones, {asks}?",
    ),
    held_out=("[outline|spot|indicate] [everything that|whatever] {does}.", "of all of this, what {asks}?"),
)

WHY = Wordings(
    train=(
        "[|please ][explain why|explain|tell me why|give the reason|explain your answer].",
        "[and why|why|why is that]?",
        "[say|state|give] the reasons.",
        "[justify the answer|explain the choice|reason step by step|with a reason].",
        "[what is the reason|why did you choose that|how do you come to that]?",
    ),
    held_out=(
        "[|please ][say why|justify your choice|give your reasons|reason about it].",
        "[how come|for what reason]?",
    ),
)

SEVERAL = Wordings(
    train=(
        (
            "[|please |now |robot, ][segment|find|show me|locate|mark|highlight|select|mask|point to] [all|all of|all]"
            " {them}[|| please| for me| on the table| in the picture]."
        ),
        "[could|can|would] you [segment|find|show me|locate|mark|highlight|point to] all {them}[||, please]?",
        "where are [|all ]{them}[|| on the table| in the picture]?",
        "[tell me|show me] where [|all ]{them} are.",
        "I [need|want|am looking for] all {them}.",
        "[pick up|grab|take|fetch|get me|bring me|give me] all {them}[||, please].",
        "[give me |]the masks of [|all ]{them}.",
        "[all|all of] {them}[||, please].",
        "which things are {them}?",
        (
            _TRY_TO + " [outline|spot|detect|identify|indicate|collect|gather|circle|find] [every one of|each of|all]"
            " {them}[||, please]."
        ),
        "a mask [for|on] each of {them}[||, please].",
        "[where|at which spots|in which places] can [all|each] of {them} be found?",
        "[let us|let me] have all {them}[||, please].",
        (
            "[|please |now |robot, ][find|show me|locate|mark|highlight|select|mask|label|segment|point to|fetch"
            "|bring me|get me|give me|hand me|pick up|take] {them}[|| please|, please| for me]."
        ),
        "[could|can|would] you [find|mark|show me|get me|bring me|hand me|point to] {them}[||, please| for me]?",
        "I [need|want|am looking for|would like to have|am after] {them}[||, please].",
        "{them}[||, please| in the picture].",
        "{them}: [where are they|show them|mark them|one mask each|a mask for each|bring them].",
        "[which|what] parts of the picture [are|show] {them}?",
        "[which ones|what] here are {them}?",
        "[put|set] a mask on [every one of|each of|all] {them}[||, please].",
        "[we|people] [need|want|are looking for|wish for] [all|] {them}[||, please].",
        "[show me|find|mark|I want to see] {them}, [one by one|one mask for each|each by itself|all there are].",
        "[with|by] a mask [for|on] each, show [me |]{them}[||, please].",
        "[I'd|I would] like [to have|to find|to get] [all|each of] {them}[||, please].",
        "[pack|put|bring] {them} [together|away|here][||, please].",
    ),
    held_out=(
        "[outline|spot|detect|identify|indicate] [all|every one of|each of] {them}[|, please].",
        "[could|can|would] you [outline|spot|detect|identify] {them}, [all of them|every one]?",
        "[let me see|help me find|draw masks on] [all|each of] {them}[|, please].",
        "whereabouts are {them}?",
        "[collect|gather] {them}[|, please].",
        "I'd like [to see |]{them}, each with a mask.",
    ),
)

BENCHMARK = "Please output segmentation mask."
"""Ending of the published benchmark's questions."""
