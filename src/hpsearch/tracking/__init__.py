"""MLflow's runs, and the spool through which everything reaches them."""
