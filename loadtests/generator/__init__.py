"""The load generator: Locust in a process of its own. Importing its parts patches the process.

`python -m loadtests.generator` plays one plan without a screen; `locust -f
loadtests/generator/locustfile.py` has Locust's own web page for people.
"""
