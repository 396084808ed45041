"""Documents whose every number is a query: model card and training-data summary, filled and checked again."""
