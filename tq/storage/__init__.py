"""Keeping tasks: one contract, `tq.storage.store`, and the stores that fulfil it.

A store applies ops and answers queries, in blocking style, one transaction a batch. It decides nothing
(that is `tq.core`), never asks what time it is, and knows neither trio nor HTTP nor its sister stores.
"""
