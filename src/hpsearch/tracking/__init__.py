"""Write studies and trials to MLflow: runs, registered models, and a spool for outages."""
