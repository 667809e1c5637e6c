"""Whether a purifier purifies: ten probes beside controls that must fail.

The paper shows t-SNE maps (Fig. 4); these are numbers with thresholds that stand before the run (`verdicts`):

* P1 change: relative norm, cosine, linear CKA (Kornblith et al. 2019, arXiv:1905.00414).
* P2 leak: the denoiser's error at k = 1 over the floor of an unconditional Gaussian. Eq. (7) as printed, whose condition is its
  target, lies far below it.
* P3 condition: how far other users' evidence, or none, moves the output; the sweep of the starting level k*.
* P4 popularity left: shares of variance, ridge and MLP regressions, distance correlation (Székely et al. 2007).
* P5 interest kept: ranking against popularity-matched negatives, long-tail recall, re-identification of users across halves of
  their histories, effective rank (Roy and Vetterli 2007).
* P6 distance to the true preference, where a world knows it.
* P7 counterfactuals: answers to popular and to niche clicks put in and left out.
* P8 clusters by popularity and by interest: silhouette and normalised mutual information.
* P9 controls: an untrained network, PCA shrinkage, linear erasure of popularity (LEACE, Belrose et al. 2023, arXiv:2306.03819), a
  denoising autoencoder, noise.
* P10 downstream: sessions of one policy on each state, their length split by its closed form.
"""
