"""The ruler for inference: how near do a history's estimates come to exact inference in worlds where that can be computed?"""
