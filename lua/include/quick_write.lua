-- Writes the statuses of a room's ranks, as the fast path of write_ranks.lua has decided. Times are milliseconds.
--
-- INCLUDE  quick_ranks, quick_clear

local now  -- in milliseconds, as text

-- As list_part.lua does for one lease.
local function list_quick(id)
  local entry, listed, is_new, shown = {}, redis.pcall('ZSCORE', KEYS[4], id), false, nil
  if type(listed) == 'table' then
    local is_other = type(listed.err) ~= 'string' or string.find(listed.err, 'WRONGTYPE', 1, true)
    listed = not is_other and redis.call('ZSCORE', KEYS[4], id)  -- raises any other error
    redis.call('DEL', KEYS[4])
  end
  listed = listed and listed - 0
  for k = 1, #holders do
    local n = #entry
    if not listed then
      listed, is_new, entry[1], entry[2] = holders[k] - 0, true, holders[k], id
    elseif listed - holders[k] ~= 0 then
      shown = shown or ' in ' .. string.format('%.0f', listed)
      entry[n + 1], entry[n + 2] = holders[k], holders[k] .. shown
    end
  end
  if #entry > 0 then redis.call('ZADD', KEYS[4], unpack(entry)) end
  if is_new then redis.call('PEXPIRE', KEYS[4], ARGV[4]) end
end

-- Returns the id of the feed's entry, false if there is none.
local function write_quick(room, prefix, id)
  local appended, status, ttl_ms = false, 'Success', ARGV[2]
  if changed > 0 then
    local missing = counts[1] + counts[2] + counts[3] + counts[4] - found[2] ~= 0
    if not now then
      local time = redis.call('TIME')
      now = time[1] .. string.sub('00000' .. time[2], -6, -4)
    end
    if missing or counts[1] - 0 > 0 then
      status = 'Bootstrapping'
    elseif counts[2] - 0 > 0 then
      status = 'WaitingForInput'
    elseif counts[3] - 0 > 0 then
      status = 'Transferring'
    else
      ttl_ms = ARGV[3]
    end
    redis.call('PEXPIRE', room, ttl_ms)  -- first, as in fail_room.lua
    redis.call(
      'HSET', room, 'status', status, 'updated_ms', now, 'version', string.format('%.0f', found[5] + changed),
      'counts', table.concat(counts, ' '), unpack(entry, 1, size)
    )
    if #gone > 0 then redis.call('HDEL', room, unpack(gone)) end
    if #holders > 0 then list_quick(id) end
    appended = append_quick(status, id, ttl_ms)
  end
  if #lengths > 0 then
    local stored = redis.pcall('HSET', prefix, 'generation', found[3], unpack(lengths))
    if type(stored) == 'table' and type(redis.pcall('HLEN', prefix)) ~= 'table' then
      redis.call('HDEL', prefix, '')  -- as in store_length.lua
      stored = redis.call('HSET', prefix, 'generation', found[3], unpack(lengths))
    end
    if type(stored) ~= 'table' then redis.call('PEXPIRE', prefix, ARGV[2]) end
  end
  return appended
end
