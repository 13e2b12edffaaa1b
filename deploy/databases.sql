-- Run once by the database's container, beside the database `mlflow` that it makes itself.
CREATE DATABASE prefect;
