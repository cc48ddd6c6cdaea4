"""One pass of a language model with cuts between its layers (:mod:`tokenreduce.backbones.causal`)."""
