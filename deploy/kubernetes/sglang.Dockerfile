# SGLang with redis_kvpoll; the build's context is the folder of the wheel.
FROM lmsysorg/sglang:v0.5.23
COPY redis_kvpoll-0.1.0-py3-none-any.whl /tmp/
RUN pip install --no-cache-dir '/tmp/redis_kvpoll-0.1.0-py3-none-any.whl[fast,cli]'
