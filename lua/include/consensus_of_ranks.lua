-- The consensus of a room's ranks: Failed if any rank is, Bootstrapping while one is missing, else the lowest status.
--
-- INCLUDE  order

local function consensus_of_ranks(fields)
  local count, lowest = 0, 'Success'
  for name, status in pairs(fields) do
    if string.find(name, '^[sc]%l+:%d+$') then  -- status:<rank> or cleared:<rank>
      count = count + 1
      -- An unknown status (made by hand) counts as a rank that is not missing, and lowers nothing.
      if (ORDER[status] or 9) < ORDER[lowest] then lowest = status end
    end
  end
  if lowest == 'Failed' or string.format('%d', count) == fields.world_size then return lowest end
  return 'Bootstrapping'
end
