"""The engine: a module as a function of a stack of parameters, many networks at once."""
