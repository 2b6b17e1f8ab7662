"""Who may ask: operators' tokens, nodes' enrolment and signatures, and what each did."""
