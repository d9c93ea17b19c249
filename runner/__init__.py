"""Do it and measure it. Data, training, memory meter, report."""
