"""On and off a model: finding its adapter, checking, replacing, controlling, saving."""
