"""The ladder on logs: what each state says of later clicks of users whom nothing was learnt from."""
