"""Trials on other machines: the engines, the dispatcher in the flow, and the agent over there."""
