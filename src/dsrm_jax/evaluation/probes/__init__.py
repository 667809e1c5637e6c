"""Measures of what a state holds, as pure functions: popularity, interests, clusters, counterfactuals; and controls to beat."""
