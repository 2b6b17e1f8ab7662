"""Jobs from the moment they wait to what came of them: claims, leases, epochs, outcomes."""
