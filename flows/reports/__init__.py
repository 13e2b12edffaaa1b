"""What users see of a study: texts, live progress, notifications and the HTML report."""
