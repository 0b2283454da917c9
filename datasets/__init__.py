"""Videos, their labels and their features, as batches for the three stages (section 5 of the paper).

annotations -> frames -> transforms -> clips (+ features) -> batch; charades, multithumos and generic hold what is
particular to each dataset.
"""

from datasets import charades, generic, multithumos

KINDS = {"charades": charades, "multithumos": multithumos, "generic": generic}
