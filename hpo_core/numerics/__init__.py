"""The numerics of surrogates: Gaussian process, Parzen estimators, acquisition, transforms and learning curves."""
