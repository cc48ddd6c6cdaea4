"""Models for evaluation harnesses: lmms-eval (``--model tokenreduce_hf``) and lm-eval (``model="tokenreduce"``).

Each loads a language model with images from a hub or a folder and attaches a reducer to it; tasks, prompts, scores and
logs are the harness's own.
"""
