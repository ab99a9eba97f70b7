"""Scripts that a fresh process runs on an artefact (see `verify.run`). None imports kerasllm.

Their names begin with `run_`, because Python puts a script's folder first where it looks for
modules, and a name such as `litert` would hide a real module.
"""
