"""The analytic model: a shadow of PyTorch that counts bytes instead of computing."""
