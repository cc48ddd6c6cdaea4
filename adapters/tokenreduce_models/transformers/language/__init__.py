"""Large vision-language models of transformers: cuts between the library's own decoder layers.

The library's forward runs as it is, on stand-ins made for one call: the model with a stand-in of its language model,
and that with a stand-in of each layer (:mod:`.model`). What decoding needs later is in the cache (:mod:`.cache`).
"""
