"""A served model on Ray Serve: several replicas, on one machine or many, behind one address.

`replica.py` is the deployment, a process with a model and the application of `zoo.serving.http`; `front.py` is the
application that clients reach, which hands each request to a replica; `cluster.py` starts and ends it all. Needs the
extra `ray`; only `scale.py` works without.

Imports: `zoo.serving` and below. Start with `cluster.py`.
"""
