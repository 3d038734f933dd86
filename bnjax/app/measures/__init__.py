"""What is measured of a network while it is trained, and at its end.

The rooms: `evaluation` (cost and accuracy, by which statistics; folding), `inputs` (what a neuron
is fed with), `gradients` (by hand against autodiff), `divergence`, `looks` (its geometry).
"""
