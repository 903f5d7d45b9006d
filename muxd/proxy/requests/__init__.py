"""Reading of requests: the route, the model that is named, and the changes of the body for the worker."""
