-- The server's clock, read once per call and only when needed. Times are milliseconds and microseconds, as text of
-- fixed width: scripts compare them as strings.

local now_ms, now_us

local function read_clock()
  if now_ms then return end
  local time = redis.call('TIME')
  local micros = string.sub('00000' .. time[2], -6)
  now_ms, now_us = time[1] .. string.sub(micros, 1, 3), time[1] .. micros
end
