"""One user of naver/sardine, transcribed: the reference of the tests of boredom and of its logs."""

from collections import deque

import numpy as np


class Literal:
    """One user's boredom and vector as `sardine/simulator.py` keeps them, statement by statement."""

    def __init__(self, user, topic, item, omega):
        self.user, self.topic, self.item, self.omega, self.t = user, topic, item, omega, 0
        self.topics, self.steps = deque(maxlen=10), deque(maxlen=10)
        self.bored, self.timeout = np.zeros(item.shape[1], bool), np.full(item.shape[1], 5)
        self.count = np.zeros(item.shape[1], int)

    def step(self, slate, clicks):
        clicked = slate[np.flatnonzero(clicks)]
        self.topics.extend(self.topic[clicked])
        self.steps.extend([self.t] * len(clicked))
        self.t += 1
        while len(self.steps) > 0 and self.steps[0] < self.t - 5:
            self.topics.popleft()
            self.steps.popleft()
        self.timeout = self.timeout - self.bored.astype(int)
        self.bored = self.bored & (self.timeout != 0)
        self.timeout[~self.bored] = 5
        self.count = np.bincount(np.asarray(self.topics, int), minlength=len(self.count))
        self.bored[self.count >= 5] = True
        if len(clicked):
            mean = np.mean([self.item[i] for i in clicked])  # no axis: their fault
            self.user = self.omega * self.user + (1 - self.omega) * mean
            self.user /= np.linalg.norm(self.user)
