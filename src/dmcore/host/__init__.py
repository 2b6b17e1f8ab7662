"""What any long-lived process needs of its machine: files, settings, logs, a clock, an address. No data plane."""
