"""The HTML report: the page, its figures and its upload to MLflow."""
