"""What MLflow shows: runs, data sets, registered models, and the spool that survives an outage."""
