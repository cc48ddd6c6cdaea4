"""The methods that come with tokenreduce: one package each, registered like anybody's."""
