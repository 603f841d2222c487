"""The mixture-of-Gaussians laboratory: the analysis of Sinha et al. 2020, with error bars."""
