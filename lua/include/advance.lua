-- The fast path of write.lua: one room, in which the caller has a status and goes up. Times are milliseconds.
--
-- It comes before all else, and defines nothing: functions and tables that are not used are a third of the cost of a
-- call. Whatever is unusual, it leaves to the rest of the script before it writes. A test compares the two. The
-- arguments are as in write.lua, the counts as in counts.lua, the entry as in feed.lua, which comes first: its id has
-- the time, as in update_one.lua.

if #ARGV == 14 and ARGV[1] ~= '0' then
  local room, rank, owner, incoming, expected_generation = KEYS[5], ARGV[6], ARGV[8], ARGV[12], ARGV[13]
  local status_field, lease_field, found, counts = 'status'
  if rank == '' then
    found = redis.pcall('HMGET', room, 'status', 'world_size', 'generation')
  else
    status_field, lease_field = 'status:' .. rank, 'by:' .. rank
    found = redis.pcall('HMGET', room, status_field, 'world_size', 'generation', 'counts', 'version', lease_field)
  end
  local own, version, consensus, ttl_ms, id, epoch = found[1], found[5], incoming, ARGV[2], false
  local from = own == 'Bootstrapping' and 1 or own == 'WaitingForInput' and 2 or own == 'Transferring' and 3 or 9
  local to = incoming == 'Success' and 4 or incoming == 'Transferring' and 3 or incoming == 'WaitingForInput' and 2 or 0
  local is_usual = from < to and (found[2] or '') == ARGV[7]
    and (expected_generation == '' or found[3] == expected_generation)
  if is_usual and owner ~= '' then
    local lease = (rank == '' or found[6] == ARGV[9]) and redis.call('HGET', KEYS[3], owner)
    is_usual = lease and string.find(lease, ARGV[9] .. ' ', 1, true) == 1
  end
  if is_usual and rank ~= '' then
    counts = {string.match(found[4] or '', '^(%d+) (%d+) (%d+) (%d+) (0) (%d+)$')}
    is_usual = counts[from] and counts[from] ~= '0' and string.find(version or '', '^[1-9]%d*$') and #version < 16
    if is_usual then
      counts[from], counts[to] = counts[from] - 1, counts[to] + 1
      if counts[1] + counts[2] + counts[3] + counts[4] - ARGV[7] ~= 0 or counts[1] - 0 > 0 then
        consensus = 'Bootstrapping'
      else
        consensus = counts[2] - 0 > 0 and 'WaitingForInput' or counts[3] - 0 > 0 and 'Transferring' or 'Success'
      end
    end
  end
  if is_usual then
    local name = string.sub(room, #KEYS[1] + 2)
    if consensus == 'Success' then ttl_ms = ARGV[3] end
    epoch = redis.call('HGET', KEYS[2], 'epoch')  -- before any write: a key of another type refuses the call
    if rank == '' then
      id = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[1], '*', 'ttl_ms', ttl_ms, name, incoming)
    else
      id = redis.pcall(
        'XADD', KEYS[1], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[1], '*', 'ttl_ms', ttl_ms, name, consensus, 'rank:' .. rank,
        incoming
      )
    end
  end
  if id and not id.err then
    local now_ms = string.sub(id, 1, 13)
    if string.find(id, '-', 14, true) ~= 14 or now_ms >= '9' then  -- the last entry was made by hand
      local time = redis.call('TIME')
      now_ms = time[1] .. string.sub('00000' .. time[2], -6, -4)
    end
    redis.call('PEXPIRE', room, ttl_ms)
    if rank == '' then
      redis.call('HSET', room, 'status', incoming, 'updated_ms', now_ms)
    else
      redis.call(
        'HSET', room, status_field, incoming, 'status', consensus, 'updated_ms', now_ms,
        'version', string.format('%.0f', version + 1),
        'counts', counts[1] .. ' ' .. counts[2] .. ' ' .. counts[3] .. ' ' .. counts[4] .. ' 0 ' .. counts[6]
      )
      if to == 4 and found[6] then redis.call('HDEL', room, lease_field) end
    end
    return {id, epoch, 2, incoming}
  end
end
