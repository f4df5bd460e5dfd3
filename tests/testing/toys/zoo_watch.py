"""A healthy observer: it counts the calls of three hooks."""

import zoo

CALLS = []


@zoo.hookimpl(wrapper=True)
def loss(model):
    CALLS.append("loss")
    return (yield)


@zoo.hookimpl(wrapper=True)
def batches(request):
    CALLS.append("batches")
    result = yield
    return result


@zoo.hookimpl(wrapper=True)
def describe(entry):
    CALLS.append("describe")
    return (yield)
