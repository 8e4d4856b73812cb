-- 100 KB up, for wrk.
wrk.method = "POST"
wrk.body = string.rep("0123456789abcdef", 6400)
