"""The pages of unlearning and detoxifying: is less toxic text bought with something else?

`subject` says what is compared, `claims` and `matched` judge, `tables` and `replies` make tables,
`tradeoff` and `hidden` pictures; `build` puts them in order.
"""
